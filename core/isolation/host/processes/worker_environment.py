"""The environment of a worker: the paths that it may read, and the variables that it sees."""

from __future__ import annotations

import importlib.util
import site
import sys
import sysconfig
from pathlib import Path

from ....imports.search_paths import user_site
from ....plugins.interface import PluginSpec

_SYSTEM_FILES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime")
#: What libraries read to know how many threads to start: OpenMP, OpenBLAS, MKL, OpenCV, numexpr, numba,
#: polars, and those written in Rust.
_POOLS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"),
    *("NUMEXPR_MAX_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS"),
)


def readable_paths(spec: PluginSpec) -> tuple[str, ...]:
    """Return what a plugin must read to run at all: Python's library, installed packages, its own code.

    Not the environment as a whole: a ``pip.conf`` with a token may lie at its top.
    """
    paths = [*_SYSTEM_FILES, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    paths += [*site.getsitepackages(), str(Path(sys.base_prefix, "lib"))]
    # An editable install keeps ringfence and its builtin plugins outside the environment.
    for package in ("ringfence", "ringfence.builtin"):
        found = importlib.util.find_spec(package)
        if found is not None:
            paths += found.submodule_search_locations or ()
    paths += [user_site()] if user_site() else []
    paths += spec.readable
    return tuple(dict.fromkeys(path for path in paths if Path(path).is_absolute()))


def worker_environment(scratch: str, threads: int) -> dict[str, str]:
    """Return all that a plugin sees of an environment; every cache goes where it may write."""
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": scratch,
        "TMPDIR": scratch,
        "XDG_CACHE_HOME": scratch,
        "MPLCONFIGDIR": scratch,
        "TORCHINDUCTOR_CACHE_DIR": scratch,
        "USER": "plugin",
        "LOGNAME": "plugin",
        # Libraries that keep threads of their own would have one for each core.
        **dict.fromkeys(_POOLS, str(threads)),
        # albumentations looks for a newer version of itself at import unless told not to.
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }
