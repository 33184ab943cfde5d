"""A file of predictions: which kinds there are, and how one comes to be whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ...hooks.errors import JobError
from .array_output import ArrayOutput
from .json_output import JsonOutput
from .output import Output
from .table_output import TableOutput

#: Ending of a file's name to what writes it.
OUTPUTS: dict[str, type[Output]] = {".csv": TableOutput, ".jsonl": JsonOutput, ".npz": ArrayOutput}
#: Characters that are left for the rest of a temporary name.
_MAX_STEM = 200
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def check_out(path: Path, *, overwrite: bool) -> None:
    """Check, before anything is read, that a file of predictions can be written.

    Raises:
        JobError: Its kind is not known, its folder is not there, or it is there already.
    """
    if path.suffix.lower() not in OUTPUTS:
        raise JobError(f"{path}: ends in '{path.suffix}'; predictions are written as {', '.join(OUTPUTS)}")
    if not path.parent.is_dir():
        raise JobError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise JobError(f"{path}: is a folder; name a file")
    if os.path.lexists(path) and not overwrite:
        raise _exists(path)


@contextlib.contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a file that has its name once it is whole; if the block raises, nothing is left.

    Raises:
        JobError: It cannot be written, or somebody has made it meanwhile.
    """
    temporary = path.with_name(f".{path.name[:_MAX_STEM]}-{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _publish(temporary, path, overwrite=overwrite)
    except OSError as error:
        raise JobError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        temporary.replace(path)
        return
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without links: the look and the act are two.
        if os.path.lexists(path):
            raise _exists(path) from None
        temporary.replace(path)


def _exists(path: Path) -> JobError:
    return JobError(f"{path}: is there already; name another, or say that it may be replaced (--overwrite)")
