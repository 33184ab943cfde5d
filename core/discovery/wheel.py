"""Unpack a wheel as an installer would lay it out, without installing it; nothing of it runs.

A stranger's archive may hold any name and any size: what leaves the folder, is no
plain file, or is too much is refused before anything is written.
"""

from __future__ import annotations

import csv
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..hooks.errors import JobError

#: More than any plugin without a model in it; a wheel beyond that is checked once it is installed.
MAX_BYTES = 2**29
MAX_FILES = 20_000

#: Part of ``NAME.data`` to where an installer puts its files, from the folder of packages.
_PARTS = {
    "purelib": ".",
    "platlib": ".",
    "data": "../../..",
    "scripts": "../../../bin",
    "headers": "../../../include",
}
#: Files that Python runs by itself wherever packages lie; ``NAME.data/data`` can put them there.
_AT_STARTUP = (".pth", "sitecustomize.py", "usercustomize.py")
_METADATA = (".dist-info", ".egg-info")
_RECORD = "RECORD"
_BELOW_DATA = 2
_SYMLINK = 0o120000
_KIND = 0o170000


def unpack(wheel: Path, folder: Path) -> None:
    """Write the packages and the metadata of ``wheel`` into ``folder``, and around it what goes elsewhere.

    Args:
        wheel: The file.
        folder: Empty, and three deep in a folder for this wheel alone, as ``lib/python3.11/site-packages``.

    Raises:
        JobError: It is no wheel, is damaged, too large, or holds names that leave the folder.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = list(_members(archive, wheel))
            for target, info in members:
                path = folder / target
                path.parent.mkdir(parents=True, exist_ok=True)
                # "x": of two members with one name, nobody knows which an installer would keep.
                with archive.open(info) as source, path.open("xb") as file:
                    shutil.copyfileobj(source, file)
    except FileExistsError as error:
        raise JobError(f"{wheel} holds a file twice; build it anew") from error
    # zipfile raises the last two of a member that is encrypted or compressed in a way that it cannot read.
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise JobError(f"{wheel} cannot be read as a wheel: {error}; build it anew") from error
    _record([target for target, _ in members], folder, wheel)


def _members(archive: zipfile.ZipFile, wheel: Path) -> Iterator[tuple[PurePosixPath, zipfile.ZipInfo]]:
    infos = [info for info in archive.infolist() if not info.is_dir()]
    total = sum(info.file_size for info in infos)
    if total > MAX_BYTES or len(infos) > MAX_FILES:
        raise JobError(
            f"{wheel} holds {len(infos)} files of {total} bytes together; at most {MAX_FILES} and "
            f"{MAX_BYTES} are unpacked for a check. Install it, and check the plugin by its name"
        )
    for info in infos:
        if not _is_plain(info):
            raise JobError(f"{wheel} holds {info.filename!r}, which is no plain file in it; build it anew")
        yield _target_path(PurePosixPath(info.filename)), info


def _is_plain(info: zipfile.ZipInfo) -> bool:
    name = info.filename
    path = PurePosixPath(name)
    leaves = path.is_absolute() or ".." in path.parts or "\\" in name
    is_link = (info.external_attr >> 16) & _KIND == _SYMLINK
    return bool(path.parts) and info.orig_filename.isprintable() and not leaves and not is_link


def _target_path(path: PurePosixPath) -> PurePosixPath:
    """Return where an installer would put a member, from the folder of packages."""
    top, *rest = path.parts
    if not top.endswith(".data") or len(rest) < _BELOW_DATA:
        return path
    if path.name.endswith(_AT_STARTUP):
        # It may name that folder: then Python runs it at every start, and the check has to see it.
        return PurePosixPath(path.name)
    return PurePosixPath(_PARTS.get(rest[0], "../../.."), *rest[1:])


def _record(files: list[PurePosixPath], folder: Path, wheel: Path) -> None:
    """Replace the list of files by what there is: an installer does so too, and a wheel's own may lie."""
    infos = [path for path in folder.iterdir() if path.name.lower().endswith(_METADATA)]
    if len(infos) != 1 or not infos[0].name.endswith(_METADATA[0]):
        raise JobError(f"{wheel} has {len(infos)} folders of metadata; a wheel has one. Build it anew")
    with (infos[0] / _RECORD).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows((str(path), "", "") for path in files)
