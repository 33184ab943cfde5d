"""Folders that ``save_to_disk`` of Hugging Face's datasets has written: Arrow streams, read by pyarrow alone.

They may be anybody's. The library itself would bring pandas and dill, which unpickles, and read no more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from ..hooks.errors import DataError, shorten, visible
from .pyarrow_library import import_pyarrow

_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
SUFFIX = ".arrow"
#: Of a file of JSON; one with 100,000 names of classes is smaller.
_MOST_BYTES = 16 << 20
#: What a stream of Arrow ends with; one without it was cut short.
_END = b"\xff\xff\xff\xff\0\0\0\0"
#: Fields of the tables in Arrow's format: of a message its header, of a record batch how it is packed.
_HEADER, _COMPRESSION = 2, 3
_SHOWN = 60
_Json = TypeVar("_Json")


class _File(msgspec.Struct):
    filename: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class _State(msgspec.Struct):
    files: Annotated[list[_File], msgspec.Meta(max_length=100_000)] = msgspec.field(name="_data_files")
    indices: list[Any] | None = msgspec.field(name="_indices_data_files", default=None)


class _Info(msgspec.Struct):
    features: dict[str, Any]


class _Splits(msgspec.Struct):
    splits: Annotated[list[str], msgspec.Meta(max_length=10_000)]


class _ClassLabel(msgspec.Struct):
    names: Annotated[list[str], msgspec.Meta(min_length=1, max_length=100_000)]


@dataclass(frozen=True, slots=True)
class SavedRows:
    """Some rows that lie together.

    Attributes:
        file: That they lie in.
        begin: Number of the first in it, from 1 on.
        batch: Them, as pyarrow has them.
    """

    file: Path
    begin: int
    batch: Any


@dataclass(frozen=True, slots=True)
class SavedDataset:
    """One data set; raises a ``DataError`` where it is damaged.

    Attributes:
        path: The folder.
        files: In order.
        features: Column to what ``dataset_info.json`` says of it.
    """

    path: Path
    files: tuple[Path, ...]
    features: dict[str, Any]

    @classmethod
    def opened(cls, path: Path) -> SavedDataset:
        """Return what the folder says of itself.

        Raises:
            DataError: A file is missing or damaged, or names others that lie elsewhere.
        """
        state = _read(path / _STATE, _State)
        if state.indices:
            raise DataError(
                f"{path / _STATE}: has rows picked out of files by a list; load the data set and save it "
                "anew with save_to_disk, which writes them in order"
            )
        names = [file.filename for file in state.files]
        wrong = next((name for name in names if Path(name).name != name or not name.endswith(SUFFIX)), None)
        if wrong is not None or not names:
            said = "no file" if wrong is None else f"the file '{visible(shorten(wrong, _SHOWN))}'"
            raise DataError(f"{path / _STATE}: names {said}; expected *{SUFFIX} in the folder itself")
        missing = next((path / name for name in names if not (path / name).is_file()), None)
        if missing is not None:
            raise DataError(f"{missing}: no such file, which {path / _STATE} names")
        return cls(path, tuple(path / name for name in names), _read(path / _INFO, _Info).features)

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """Return the names of the classes in a column; None: it holds no ClassLabel."""
        if self.kind(column) != "ClassLabel":
            return None
        try:
            return tuple(msgspec.convert(self.features[column], _ClassLabel).names)
        except msgspec.ValidationError as error:
            raise DataError(
                f"{self.path / _INFO}: column '{visible(column)}' is a ClassLabel without names ({error}); "
                "give it some with cast_column, and save the data set anew"
            ) from error

    def kind(self, column: str) -> str:
        """Return what a column is by ``dataset_info.json``, such as 'Value' or 'Image'."""
        feature = self.features.get(column)
        found = feature.get("_type", "dict") if isinstance(feature, dict) else type(feature).__name__
        return str(found)

    def rows(self, at_once: int) -> Iterator[SavedRows]:
        """Yield all rows in order, at most ``at_once`` a part.

        Raises:
            DataError: A file is damaged, or has other columns than ``dataset_info.json`` says.
        """
        for file in self.files:
            begin = 1
            for batch in self._batches(file):
                for i in range(0, batch.num_rows, at_once):
                    part = batch.slice(i, at_once)
                    yield SavedRows(file, begin + i, part)
                begin += batch.num_rows

    def _batches(self, file: Path) -> Iterator[Any]:
        pyarrow = import_pyarrow(file)
        from pyarrow import ipc  # noqa: PLC0415 - of the extra

        try:
            with file.open("rb") as opened:
                opened.seek(max(0, file.stat().st_size - len(_END)))
                if opened.read(len(_END)) != _END:
                    raise DataError(
                        f"{file}: was cut short, or is no stream of Arrow; save the data set anew"
                    )
            with pyarrow.memory_map(str(file)) as source:
                messages = ipc.MessageReader.open_stream(source)
                schema = ipc.read_schema(messages.read_next_message())
                if len(schema.names) != len(set(schema.names)) or set(schema.names) != self.features.keys():
                    differ = sorted(set(schema.names) ^ self.features.keys()) or ["one twice"]
                    raise DataError(
                        f"{file}: has other columns than {_INFO} beside it says: "
                        f"{', '.join(visible(shorten(name, _SHOWN)) for name in differ[:5])}"
                    )
                for message in messages:
                    if message.type != "record batch" or _is_packed(message.metadata):
                        raise DataError(
                            f"{file}: holds a {message.type} that is compressed, or no batch of rows; "
                            "save_to_disk writes no such: save the data set anew"
                        )
                    batch = ipc.read_record_batch(message, schema)
                    # Places of texts that lie beyond their memory would be read as they are.
                    batch.validate(full=True)
                    yield batch
        except (pyarrow.ArrowException, StopIteration) as error:
            raise DataError(f"{file}: cannot be read as Arrow: {shorten(str(error), 200)}") from error
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error


def is_saved(path: Path) -> bool:
    """Tell whether a folder holds one data set."""
    return (path / _STATE).is_file()


def has_splits(path: Path) -> bool:
    """Tell whether a folder holds several, one a split."""
    return (path / _SPLITS).is_file()


def holds_saved(path: Path) -> bool:
    """Tell whether a folder holds a data set, or several."""
    return is_saved(path) or has_splits(path)


def split_folders(path: Path) -> list[Path]:
    """Return the folders of all splits, by name.

    Raises:
        DataError: One is missing.
    """
    found = sorted(path / name for name in _read(path / _SPLITS, _Splits).splits if Path(name).name == name)
    missing = next((split for split in found if not is_saved(split)), None)
    if missing is not None:
        raise DataError(f"{missing}: holds no {_STATE}; {path / _SPLITS} names it as a split")
    return found


def cells_of(data: SavedDataset, rows: SavedRows) -> dict[str, list[Any]]:
    """Return rows by columns: numbers, texts, truth values and dates, and of a ClassLabel its name.

    Of other columns each cell is an empty list, dict or text of bytes: what they hold is not unpacked.

    Raises:
        DataError: The number of a class has no name.
    """
    return {name: _column(data, rows, name) for name in rows.batch.schema.names}


def plain_bytes(rows: SavedRows) -> int:
    """Return how many bytes the columns take that ``cells_of`` unpacks."""
    types = import_pyarrow(rows.file).types
    return sum(column.nbytes for column in rows.batch.columns if _is_plain(types, column.type))


def _column(data: SavedDataset, rows: SavedRows, name: str) -> list[Any]:
    pyarrow = import_pyarrow(rows.file)
    types, column = pyarrow.types, rows.batch.column(name)
    if not _is_plain(types, column.type):
        is_list = types.is_list(column.type) or types.is_large_list(column.type)
        is_dict = types.is_struct(column.type) or types.is_map(column.type)
        return [[] if is_list else {} if is_dict else b""] * len(column)
    found: list[Any] = column.to_pylist()
    names = data.class_names(name)
    if names is None:
        return found
    for i, number in enumerate(found):
        # -1 is what the library writes where a class is not known.
        if number not in {None, -1} and not (type(number) is int and 0 <= number < len(names)):
            raise DataError(
                f"{rows.file}: row {rows.begin + i}: column '{visible(name)}' holds the class "
                f"{visible(shorten(str(number), _SHOWN))}; {_INFO} names {len(names)}"
            )
    return [None if number in {None, -1} else names[number] for number in found]


def _is_plain(types: Any, kind: Any) -> bool:
    return any(
        test(kind)
        for test in (
            types.is_string,
            types.is_large_string,
            types.is_integer,
            types.is_floating,
            types.is_boolean,
            types.is_null,
            types.is_temporal,
        )
    )


def _read(file: Path, kind: type[_Json]) -> _Json:
    try:
        with file.open("rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    if len(data) > _MOST_BYTES:
        raise DataError(f"{file}: has more than {_MOST_BYTES:,} bytes; save_to_disk writes no such file")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{file}: is not as save_to_disk writes it: {shorten(str(error), 200)}") from error


def _is_packed(metadata: Any) -> bool:
    """Tell whether a record batch is compressed, and could unpack to any size; pyarrow does not say it.

    Args:
        metadata: Of a message, which pyarrow has checked: a root table, of which the header is one.
    """
    data = memoryview(metadata)

    def field(table: int, number: int) -> int | None:
        """Return where a field of a table lies."""
        vtable = table - struct.unpack_from("<i", data, table)[0]
        if 4 + 2 * number >= struct.unpack_from("<H", data, vtable)[0]:
            return None
        offset: int = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0]
        return table + offset if offset else None

    root: int = struct.unpack_from("<I", data, 0)[0]
    header = field(root, _HEADER)
    if header is None:
        return True
    return field(header + struct.unpack_from("<I", data, header)[0], _COMPRESSION) is not None
