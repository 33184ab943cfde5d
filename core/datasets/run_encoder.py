"""What makes samples of rows for a run that was trained on rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ..engine.preprocessing import Preprocessing
from .row_samples import Encoder
from .table import TableEncoder
from .text import TextEncoder

_ENCODERS: dict[str, Callable[[Mapping[str, Any]], Encoder]] = {"table": TableEncoder, "text": TextEncoder}


def row_encoder(preprocessing: Preprocessing | None) -> Callable[[], Encoder] | None:
    """Return what gives a maker of samples of rows as those of a run were; None where those were no rows.

    Args:
        preprocessing: Of the run; may be anybody's.
    What it returns raises DataError where that is damaged.
    """
    make = None if preprocessing is None else _ENCODERS.get(preprocessing.reader)
    return None if make is None or preprocessing is None else functools.partial(make, preprocessing.state)
