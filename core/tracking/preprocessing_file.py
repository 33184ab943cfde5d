"""``preprocessing.json``: how the reader of a run made samples of files, for others to be made alike.

Whoever reads one may have been given it by anybody: the reader checks what its state says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ..engine.preprocessing import Preprocessing
from ..hooks.errors import CheckpointError, shorten, visible
from .untrusted_folder import Tree

NAME = "preprocessing.json"
#: Vocabularies of a million words have some 30 MiB.
MAX_BYTES = 64 << 20
_SHOWN = 200


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reader: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    state: dict[str, Any]
    schema: Literal[1] = 1


def write_preprocessing(folder: Path, preprocessing: Preprocessing) -> None:
    """Replace ``preprocessing.json`` of a run.

    Raises:
        OSError: It cannot be written.
    """
    told = _File(preprocessing.reader, dict(preprocessing.state))
    Tree(folder).write(NAME, [msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n"], sync=True)


def read_preprocessing(folder: Path) -> Preprocessing | None:
    """Return how the reader of a run made samples of files; None where the run does not tell.

    Raises:
        CheckpointError: The file is damaged.
    """
    try:
        found = msgspec.json.decode(Tree(folder).read(NAME, MAX_BYTES), type=_File)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(
            f"{folder}: {NAME} cannot be read: {visible(error.strerror or str(error))}"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"{folder}/{NAME} is damaged: {visible(shorten(str(error), _SHOWN)) or 'nested too deep'}"
        ) from error
    return Preprocessing(found.reader, found.state)
