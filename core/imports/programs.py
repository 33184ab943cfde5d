"""Programs on the search path: what a plugin brings must not be found in their place.

User code and libraries of the trainer start compilers, ``git`` or ``python`` through PATH, and an
installer puts what a wheel brings into a folder that comes first there. So a plugin's program may
have any name but that of another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

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
_MAX_NAME = 255
SAME_NAME = "whose name is that of another program"


def is_tried(name: str) -> bool:
    """Tell whether programs of this name are started by libraries, be there one or not."""
    if len(name) > _MAX_NAME:
        return False  # nor is there one
    found = _NAME.fullmatch(name)
    return name in _TRIED or (found is not None and found[1] in _TRIED)


def searched_folders() -> list[str]:
    """Return the folders without links that programs are looked for in, in order: here, and in a zygote."""
    return list(dict.fromkeys(map(os.path.realpath, [*os.get_exec_path(), "/usr/bin", "/bin"])))


def misleads(name: str, folder: str, is_same: Callable[[str], bool]) -> str | None:
    """Return how a program of this name in ``folder`` is found in place of another; None if it is not.

    Args:
        name: Name of the program.
        folder: Where it lies or would, without links.
        is_same: Tells of the path of a program whether it is the same, installed elsewhere as well.
    """
    folders = searched_folders()
    later = folders[folders.index(folder) + 1 :] if folder in folders else folders
    for path in (f"{other}/{name}" for other in later):
        if os.path.isfile(path) and os.access(path, os.X_OK) and not is_same(path):  # noqa: PTH113 - pathlib costs what --help must not
            return f"which is found before {path}"
    return SAME_NAME if is_tried(name) else None
