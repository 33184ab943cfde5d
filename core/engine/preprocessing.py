"""How a reader made samples of files, so that those that come later are made alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a reader has chosen or learned from the training samples.

    Attributes:
        reader: Its name in the job.
        state: Plain data, as JSON can say it; the reader knows what it means.
    """

    reader: str
    state: Mapping[str, Any] = field(default_factory=dict)
