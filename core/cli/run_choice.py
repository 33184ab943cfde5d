"""Flags that choose one of the states of a run."""

from __future__ import annotations

from typing import Literal, cast

from ..hooks.errors import JobError
from ..tracking.model_files import STATE_NAMES, WEIGHTS_NAMES, CheckpointName, WeightsName


def checkpoint_named(text: str) -> CheckpointName:
    """Return what ``--checkpoint`` names.

    Raises:
        JobError: It is neither ``best`` nor ``last`` nor a number of steps.
    """
    if text in STATE_NAMES:
        return cast("Literal['best', 'last']", text)
    if text.isascii() and text.isdigit():
        return int(text)
    raise JobError(f"--checkpoint {text}: expected best, last or a number of steps")


def weights_named(text: str) -> WeightsName:
    """Return what ``--weights`` names.

    Raises:
        JobError: It is none of ``model``, ``ema`` and ``swa``.
    """
    if text in WEIGHTS_NAMES:
        return cast("WeightsName", text)
    raise JobError(f"--weights {text}: expected model, ema or swa")
