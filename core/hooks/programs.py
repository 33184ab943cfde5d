"""Programs that others look for by their names: what a plugin brings must not be found in their place.

User code and libraries of the trainer start compilers, ``git`` or ``python`` through PATH, and an
installer puts what a wheel brings into a folder that comes first there. So a plugin's program may
have any name but that of another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection

#: What the standard library, torch and their like try to start, and mostly can do without.
_TRIED = {
    *("gcc", "g++", "cc", "c++", "cpp", "clang", "clang++", "icx", "icpx", "icc", "icpc", "gfortran"),
    *("ifort", "f77", "f90", "f95", "as", "ld", "lld", "mold", "ar", "nm", "ranlib", "strip"),
    *("objdump", "objcopy", "readelf", "ldd", "ldconfig", "nvcc", "ptxas", "cuobjdump", "nvdisasm"),
    *("nvidia-smi", "hipcc", "hipconfig", "rocm-smi", "amd-smi", "rocminfo", "rocm_agent_enumerator"),
    *("xpu-smi", "make", "cmake", "ninja", "meson", "ccache", "sccache", "pkg-config", "git", "hg"),
    *("svn", "svnversion", "uname", "file", "which", "where", "lscpu", "lspci", "lsof", "lsb_release"),
    *("sysctl", "numactl", "taskset", "free", "ps", "top", "df", "du", "hostname", "ifconfig", "ip"),
    *("arp", "netstat", "ss", "stty", "tput", "tty", "clear", "reset", "id", "env", "sh", "bash"),
    *("dash", "zsh", "fish", "ls", "cat", "cp", "mv", "rm", "ln", "mkdir", "sleep", "test", "true"),
    *("false", "echo", "date", "pwd", "sed", "awk", "grep", "find", "xargs", "sort", "head", "tail"),
    *("less", "more", "man", "tar", "gzip", "unzip", "curl", "wget", "ssh", "scp", "rsync", "sudo"),
    *("su", "docker", "perl", "node", "java", "openssl", "gpg", "latex", "pdflatex", "xelatex"),
    *("lualatex", "kpsewhich", "dvipng", "gs", "inkscape", "pdftocairo", "pdftops", "dot", "ffmpeg"),
    *("ffprobe", "mencoder", "convert", "magick", "fc-list", "xdg-open", "open", "vi", "vim", "nano"),
    *("emacs", "editor", "sensible-editor", "x-www-browser", "firefox", "chromium", "google-chrome"),
    *("display", "eog", "conda", "mamba", "uv", "pip", "poetry", "srun", "sbatch", "scontrol"),
    *("mpirun", "mpiexec", "torchrun", "tensorboard", "python", "pythonw", "pypy", "ringfence"),
}
#: One of those, with the machine in front and a version behind, as ``x86_64-linux-gnu-gcc-12``.
_NAME = re.compile(r"(?:\w+-(?:\w+-)?linux-gnu-)?(.*?)(?:-?\d[\d.]*)?")
#: A program that an installer made of an entry point.
_LAUNCHES = re.compile(rb"^from ([\w.]+) import \w+", re.MULTILINE)
_MAX_LAUNCHER_BYTES = 2**14
SAME_NAME = "whose name is that of another program"


def is_tried(name: str) -> bool:
    """Tell whether programs of this name are started by libraries, be there one or not."""
    found = _NAME.fullmatch(name)
    return name in _TRIED or (found is not None and found[1] in _TRIED)


def searched_folders() -> list[str]:
    """Return the folders without links that programs are looked for in, in order: here, and in a zygote."""
    return list(dict.fromkeys(map(os.path.realpath, [*os.get_exec_path(), "/usr/bin", "/bin"])))


def misleads(name: str, folder: str, own: Collection[str]) -> str | None:
    """Return how a program of this name in ``folder`` is found in place of another; None if it is not.

    Args:
        name: Name of the program.
        folder: Where it lies or would, without links.
        own: Modules of whoever brings it, as ``hidden_by`` takes them.
    """
    if (hidden := hidden_by(name, folder, own)) is not None:
        return f"which is found before {hidden}"
    return SAME_NAME if is_tried(name) else None


def hidden_by(name: str, folder: str, own: Collection[str]) -> str | None:
    """Return the program that is found no longer once ``folder`` has one of its name, None if there is none.

    Args:
        name: Name of the program.
        folder: One of those that are searched.
        own: Modules of whoever has put it there: what starts one of those, from another place that it
            is installed in, is hidden from nobody.
    """
    folders = searched_folders()
    later = folders[folders.index(folder) + 1 :] if folder in folders else folders
    paths = (f"{other}/{name}" for other in later)
    return next((path for path in paths if _is_program(path) and not _launches(path, own)), None)


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)  # noqa: PTH113 - pathlib costs what --help must not


def _launches(path: str, modules: Collection[str]) -> bool:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            found = _LAUNCHES.search(file.read(_MAX_LAUNCHER_BYTES))
    except OSError:
        return False
    return found is not None and found[1].decode().partition(".")[0] in modules
