"""Paths that no job may open to a plugin, and why.

A grant is the user's word, but some words are never meant: a home folder with
all its keys, the kernel's own files, code that others run. What is refused is
told with the reason; a folder inside, with nothing but data in it, mostly is not.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import site
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path

from ....compat.source.module_files import file_on_path
from ...policy.procfs import mounts
from ..limits.owner import has_owner

_KERNEL = "it belongs to the kernel and to running programs"
_SYSTEM = "it is part of the operating system"
_KEYS = "keys and passwords are kept there"

#: Neither these, nor what is in them, nor what holds them.
_CLOSED: dict[str, str] = {
    **dict.fromkeys(("/proc", "/sys", "/dev", "/run", "/var/run", "/boot", "/lost+found"), _KERNEL),
    **dict.fromkeys(
        (
            *("/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/sudoers.d", "/etc/ssh", "/etc/security"),
            *("/etc/ssl/private", "/etc/pki/tls/private", "/etc/krb5.keytab", "/etc/kubernetes"),
            *("/var/lib/docker", "/var/lib/containerd", "/var/lib/kubelet", "/var/spool", "/var/mail"),
        ),
        _KEYS,
    ),
}
#: Not as a whole; what is in them may be granted.
_NOT_WHOLE = ("/", "/home", "/root", "/etc", "/usr", "/var", "/var/lib", "/mnt", "/media", "/opt", "/srv")
#: Besides ``_CLOSED``, for writing: other users and programs run it or believe it.
_SYSTEM_CODE = (
    *("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/etc", "/opt", "/nix", "/snap"),
    *("/var/lib/dpkg", "/var/lib/apt", "/var/lib/rpm", "/var/lib/pacman", "/var/lib/systemd", "/var/cache"),
)
_HOME_CREDENTIALS = (
    *(".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".password-store", ".pki", ".kaggle"),
    *(".netrc", "_netrc", ".pgpass", ".my.cnf", ".git-credentials", ".pypirc", ".npmrc", ".yarnrc.yml"),
    *(".boto", ".s3cfg", ".vault-token", ".terraform.d", ".oci", ".databrickscfg", ".snowflake", ".ngc"),
    *(".bash_history", ".zsh_history", ".python_history", ".mozilla", ".thunderbird", ".electrum"),
    *(".config/gcloud", ".config/gh", ".config/hub", ".config/glab-cli", ".config/pip", ".config/rclone"),
    *(".config/google-chrome", ".config/chromium", ".config/op", ".config/sops", ".config/doctl"),
    *(".config/containers", ".config/wandb", ".config/huggingface", ".pip", ".huggingface", ".comet.config"),
    *(".cache/huggingface/token", ".cache/huggingface/stored_tokens", ".local/share/keyrings"),
    # The key that vouches for a user's own runs.
    ".local/state/ringfence",
    *(".cargo/credentials", ".cargo/credentials.toml", ".gem/credentials", ".env"),
)
#: Those that are told by their own name, wherever they lie.
_CREDENTIAL_NAMES = frozenset(
    name for name in _HOME_CREDENTIALS if "/" not in name and name not in {".pip", ".docker"}
)
#: Variables that say where such a file or folder is instead.
_CREDENTIAL_VARIABLES = (
    *("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AZURE_CONFIG_DIR"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "KUBECONFIG", "DOCKER_CONFIG", "GNUPGHOME"),
    *("HF_TOKEN_PATH", "NETRC", "PGPASSFILE", "PIP_CONFIG_FILE", "NPM_CONFIG_USERCONFIG"),
    *("KAGGLE_CONFIG_DIR", "SSH_AUTH_SOCK", "GIT_ASKPASS", "VAULT_TOKEN_FILE", "PASSWORD_STORE_DIR"),
)
#: File systems that are made of the kernel's own answers, wherever they are mounted.
_KERNEL_FILE_SYSTEMS = frozenset(
    (
        *("proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs"),
        *(
            "bpf",
            "configfs",
            "hugetlbfs",
            "efivarfs",
            "fusectl",
            "mqueue",
            "pstore",
            "binfmt_misc",
            "selinuxfs",
            "nsfs",
        ),
    )
)
#: What lies at the top of a folder that tools run or obey.
_PROJECT_MARKS = (
    *(".git", ".hg", ".svn", ".envrc", ".vscode", ".idea", ".github", ".gitlab-ci.yml", "Makefile"),
    *("pyproject.toml", "setup.py", "setup.cfg", "conftest.py", "package.json", "Cargo.toml"),
    *("pyvenv.cfg", "conda-meta", "Dockerfile", "docker-compose.yml", "compose.yaml"),
    *("CMakeLists.txt", ".pre-commit-config.yaml"),
)
_CODE_SUFFIXES = frozenset((*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES, ".pyc", ".pth", ".so", ".sh", ".ipynb"))
_EXECUTABLE = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
_MAX_ENTRIES = 10_000
_RUN_FOLDER_MARK = "run.json"


def why_reserved(path: Path, *, write: bool, modules: Sequence[Path] = (), code: Sequence[Path] = ()) -> str:
    """Return why ``path`` may be granted to no plugin, as a clause; ``""`` if it may.

    Args:
        path: Absolute, without links in it; need not exist.
        write: Whether it is to be changed.
        modules: Where modules are looked for besides ``sys.path``; only matters for writing.
        code: Files and folders of code that runs; only matters for writing.
    """
    reasons = _reasons_against_reading(path)
    if write:
        reasons = itertools.chain(reasons, _reasons_against_writing(path, modules, code))
    return next(reasons, "")


def _reasons_against_reading(path: Path) -> Iterator[str]:
    whole = _resolve(_wholes())
    if path in whole:
        yield f"it is {whole[path]}; name a folder in it"
    yield from (f"it holds {what} ({held})" for held, what in whole.items() if held.is_relative_to(path))
    yield from _about_closed(path, _resolve(_closed()))
    yield from _about_names(path)
    yield from _about_mounts(path)


def _reasons_against_writing(path: Path, modules: Sequence[Path], code: Sequence[Path]) -> Iterator[str]:
    yield from _about_closed(path, _resolve(_code()))
    yield from _about_closed(path, _resolve((str(each), "a plugin's code is there") for each in code))
    yield from _about_hidden(path)
    # As Python does, the current folder counts, and so do others that hold more than modules.
    for entry in dict.fromkeys([*sys.path, os.getcwd(), *map(str, modules)]):  # noqa: PTH109 - as on sys.path
        yield from _about_imports(path, Path(os.path.realpath(entry or ".")))
    yield from _about_content(path)


def _about_closed(path: Path, closed: Mapping[Path, str]) -> Iterator[str]:
    for place, why in closed.items():
        if path == place:
            yield why
        elif path.is_relative_to(place):
            yield f"it lies in {place}: {why}"
        elif place.is_relative_to(path):
            yield f"it holds {place}: {why}"


def homes() -> list[Path]:
    """Return the home folders of this user, as far as they are known."""
    found = (os.path.expanduser("~"), os.environ.get("HOME", ""))  # noqa: PTH111 - never raises
    return [Path(text) for text in found if text.startswith("/")]


def _wholes() -> Iterator[tuple[str, str]]:
    for home in homes():
        yield str(home), "your home folder"
    yield from ((place, "a folder that holds too much") for place in _NOT_WHOLE)
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108 - to refuse them
        yield place, "the folder of everybody's temporary files"
    # A pip.conf with a token may lie at its top.
    for place in (sys.prefix, sys.base_prefix):
        yield place, "an environment of Python"


def _closed() -> Iterator[tuple[str, str]]:
    yield from _CLOSED.items()
    for home in homes():
        yield from ((str(home / name), _KEYS) for name in _HOME_CREDENTIALS)
    for variable in _CREDENTIAL_VARIABLES:
        if os.environ.get(variable, "").startswith("/"):
            yield os.environ[variable], f"{variable} says that keys are kept there"
    if os.environ.get("XDG_STATE_HOME", "").startswith("/"):
        yield f"{os.environ['XDG_STATE_HOME']}/ringfence", _KEYS
    if os.environ.get("HF_HOME", "").startswith("/"):
        yield from ((f"{os.environ['HF_HOME']}/{name}", _KEYS) for name in ("token", "stored_tokens"))


def _code() -> Iterator[tuple[str, str]]:
    yield from ((place, _SYSTEM) for place in _SYSTEM_CODE)
    installed = {*site.getsitepackages(), site.getusersitepackages()}
    installed |= {
        sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib", "scripts")
    }
    for place in (*sorted(installed), sys.prefix, sys.base_prefix):
        yield place, "Python imports or runs what is there"
    for package in ("ringfence", "ringfence.builtin"):
        found = importlib.util.find_spec(package)
        for place in (found.submodule_search_locations or ()) if found is not None else ():
            yield place, "ringfence itself is there"
    for place in os.environ.get("PATH", "").split(os.pathsep):
        if place.startswith("/"):
            yield place, "programs are looked for there (PATH)"


def _resolve(places: Iterable[tuple[str, str]]) -> dict[Path, str]:
    """Return the places as they are spelt and as the kernel sees them."""
    found: dict[Path, str] = {}
    for place, why in places:
        for spelt in (place, os.path.realpath(place)):
            found.setdefault(Path(os.path.normpath(spelt)), why)
    return found


def _about_names(path: Path) -> Iterator[str]:
    for part in path.parts:
        if part in _CREDENTIAL_NAMES:
            yield f"{_KEYS} ({part})"
        if has_owner(part):
            yield "sandboxes of ringfence are there"
    held = next((name for name in _HOME_CREDENTIALS if os.path.lexists(path / name)), None)
    if held is not None:
        yield f"it holds {held}: {_KEYS}"
    if path.parent == Path("/home"):
        yield "it is a home folder; name a folder in it"


def _about_mounts(path: Path) -> Iterator[str]:
    mounted = mounts()
    for mount in mounted:
        if mount.kind in _KERNEL_FILE_SYSTEMS and mount.place.is_relative_to(path):
            yield f"a file system of the kernel ({mount.kind}) is mounted in it, at {mount.place}"
    holding = [mount for mount in mounted if path.is_relative_to(mount.place)]
    nearest = max(holding, key=lambda mount: len(mount.place.parts), default=None)
    if nearest is not None and nearest.kind in _KERNEL_FILE_SYSTEMS:
        yield f"it is of a file system of the kernel ({nearest.kind}, mounted at {nearest.place})"


def _about_hidden(path: Path) -> Iterator[str]:
    for home in {Path(os.path.realpath(home)) for home in homes()}:
        inside = path.relative_to(home).parts if path.is_relative_to(home) else ()
        if inside and inside[0].startswith("."):
            yield f"programs keep their settings and code in {home / inside[0]}"
        if inside and inside[0] in {"bin", "go", "Library"}:
            yield f"programs are kept in {home / inside[0]}"


def _about_imports(path: Path, folder: Path) -> Iterator[str]:
    if folder.is_relative_to(path):
        yield f"it is or holds {folder}, where Python looks for modules"
    elif path.is_relative_to(folder) and os.path.isdir(folder):  # noqa: PTH112 - a Path may raise
        yield from _about_module(path.relative_to(folder).parts, folder)


def _about_module(parts: tuple[str, ...], folder: Path) -> Iterator[str]:
    name = parts[0].partition(".")[0]
    if name in sys.stdlib_module_names or (name.isidentifier() and file_on_path(name) is not None):
        yield f"'{name}' is the name of a module that Python imports"
    for depth in range(1, len(parts) + 1):
        inner = folder.joinpath(*parts[:depth])
        if _holds_code(inner):
            yield f"Python can import what is in {inner}"


def _about_content(path: Path) -> Iterator[str]:
    marks = [part for part in path.parts if part in {".git", ".hg", ".svn"}]
    if marks:
        yield f"it lies in a {marks[0]} folder, whose files are obeyed and run"
    run = next((each for each in (path, *path.parents) if os.path.lexists(each / _RUN_FOLDER_MARK)), None)
    if run is not None or any(os.path.lexists(path / name / _RUN_FOLDER_MARK) for name in _names(path)):
        yield f"runs of ringfence are there ({run or path}), and whoever resumes one believes what is in it"
    held = next((name for name in _PROJECT_MARKS if os.path.lexists(path / name)), None)
    if held is not None:
        yield f"it holds {held}, so other programs run or obey what is there; name a folder with data only"
    try:
        found = path.stat()
    except OSError:
        return
    if stat.S_ISREG(found.st_mode) and (path.suffix in _CODE_SUFFIXES or found.st_mode & _EXECUTABLE):
        yield "it is a program"


def _holds_code(folder: Path) -> bool:
    return any(os.path.splitext(name)[1] in _CODE_SUFFIXES for name in _names(folder))  # noqa: PTH122


def _names(folder: Path) -> list[str]:
    """Return what a folder holds, up to a bound; nothing if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in itertools.islice(entries, _MAX_ENTRIES)]
    except OSError:
        return []
