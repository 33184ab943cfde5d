"""The library pyarrow, where it is installed and safe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from packaging.version import Version

from ..hooks.errors import DataError

#: Earlier ones unpickle what a file may hold (CVE-2023-47248).
_SAFE = Version("14.0.1")


def import_pyarrow(path: Path) -> Any:
    """Return the module.

    Args:
        path: What is to be read with it, for messages.

    Raises:
        DataError: It is not installed, or of a version that unpickles.
    """
    try:
        import pyarrow  # noqa: PLC0415, ICN001 - an extra, which nobody else waits for
    except ImportError:
        raise DataError(
            f"{path}: is read with pyarrow, which is not installed: pip install 'ringfence[parquet]'"
        ) from None
    if Version(pyarrow.__version__) < _SAFE:
        raise DataError(
            f"{path}: pyarrow {pyarrow.__version__} unpickles what a file may hold (CVE-2023-47248): "
            "pip install 'ringfence[parquet]'"
        )
    return pyarrow
