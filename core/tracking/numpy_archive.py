"""Read ``.npz`` files that may come from anybody: numbers and text within bounds, nothing unpickled."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Of all arrays of a file together, once they are unpacked.
MAX_UNPACKED_BYTES = 64 << 20
MAX_MEMBERS = 64
_MAX_HEADER_BYTES = 1024
_MAX_DIMS = 2
_SUFFIX = ".npy"
#: Begins each entry of the list of members, all of which zipfile makes objects of before it is asked.
_ENTRY = b"PK\x01\x02"
#: As numpy writes it, and no other: bool, numbers and text, little-endian, in C order.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?s:..)\{'descr': '([|<][biufU][0-9]{1,4})', 'fortran_order': False, "
    rb"'shape': \(((?:[0-9]{1,12},? ?){0,2})\), \} *\n"
)
_FAULTS = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    TypeError,  # numpy's, of a number of a size that there is not
    NotImplementedError,  # this and the next of a member that zipfile cannot decrypt or unpack
    RuntimeError,
)


class DamagedArchiveError(ValueError):
    """A file is no archive of arrays as a run writes them; the message says why."""


def read_archive(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` file by name.

    Args:
        data: What the file holds.

    Raises:
        DamagedArchiveError: It is damaged, too large when unpacked, or holds other than plain arrays.
    """
    arrays, left = {}, MAX_UNPACKED_BYTES
    if data.count(_ENTRY) > MAX_MEMBERS:
        raise DamagedArchiveError(f"it has more than {MAX_MEMBERS} members")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise DamagedArchiveError(f"{member.filename!r} is compressed in another way")
                with archive.open(member) as file:
                    # What the archive says of the length is not to be believed.
                    unpacked = file.read(left + 1)
                left -= len(unpacked)
                if left < 0:
                    raise DamagedArchiveError(f"it is larger than {MAX_UNPACKED_BYTES >> 20} MiB unpacked")
                arrays[member.filename.removesuffix(_SUFFIX)] = _array(member.filename, unpacked)
    except DamagedArchiveError:
        raise
    except _FAULTS as error:
        raise DamagedArchiveError(f"it is no whole archive ({error})") from error
    return arrays


def _array(name: str, data: bytes) -> NDArray[Any]:
    found = _HEADER.match(data, 0, _MAX_HEADER_BYTES)
    if found is None:
        raise DamagedArchiveError(f"{name!r} is no plain array")
    dtype = np.dtype(found[1].decode())
    shape = tuple(int(size) for size in re.findall(rb"[0-9]+", found[2]))
    count = int(np.prod(shape, dtype=object))
    if len(shape) > _MAX_DIMS or count * dtype.itemsize != len(data) - found.end():
        raise DamagedArchiveError(f"{name!r} is not as long as it says")
    if not count:
        return np.empty(shape, dtype)
    return np.frombuffer(data, dtype, count, found.end()).reshape(shape)
