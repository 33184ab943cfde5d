"""What makes samples of rows for a run that was trained on rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..engine.preprocessing import Preprocessing
from .row_samples import Encoder
from .table import TableEncoder
from .text import TextEncoder

_ENCODERS: dict[str, Callable[[Mapping[str, Any]], Encoder]] = {"table": TableEncoder, "text": TextEncoder}


def row_encoder(preprocessing: Preprocessing | None) -> Encoder | None:
    """Return what makes samples of rows as those of a run were; None where its samples were no rows.

    Args:
        preprocessing: Of the run; may be anybody's.

    Raises:
        DataError: It is damaged.
    """
    make = None if preprocessing is None else _ENCODERS.get(preprocessing.reader)
    return None if make is None or preprocessing is None else make(preprocessing.state)
