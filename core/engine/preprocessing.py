"""How a reader made samples of files, so that those that come later are made alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from ..hooks.errors import DataError

_State = TypeVar("_State", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a reader has chosen or learned from the training samples.

    Attributes:
        reader: Its name in the job.
        state: Plain data, as JSON can say it; the reader knows what it means.
    """

    reader: str
    state: Mapping[str, Any] = field(default_factory=dict)


def damaged(why: object) -> DataError:
    """Return the error that what a run tells of its preprocessing cannot be so."""
    return DataError(f"preprocessing.json of the run is damaged: {why}")


def read_state(state: Mapping[str, Any], kind: type[_State]) -> _State:
    """Return the state of a reader as what it is; it may be anybody's.

    Raises:
        DataError: It is none of this kind.
    """
    try:
        return msgspec.convert(dict(state), kind)
    except msgspec.ValidationError as error:
        raise damaged(error) from error
