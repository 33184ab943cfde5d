"""What a run holds out for validation: one that is resumed keeps the split that it began with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..datasets.split import HoldOut
from ..engine.checkpoints.checkpoint import list_checkpoints, read_manifest
from ..engine.checkpoints.fingerprint_diff import CONTENTS, HELD_OUT
from ..hooks.errors import CheckpointError
from ..job.job_file import Job
from ..tracking.run_folder import CHECKPOINTS


def choose_split(job: Job, resumed: Path | None) -> HoldOut:
    """Return what to hold out.

    Args:
        job: What it asks for counts; where it does not say, a run that is resumed goes on as it began.
        resumed: The folder of the run that is to go on; None for a new one.
    """
    began = None if resumed is None else _manifest(resumed)
    if began is None:
        return HoldOut(job.validation_fraction)
    then: Mapping[str, Any] = began["fingerprint"]
    if HELD_OUT not in then:
        # Of its readers one alone knew a validation part, and was judged by it.
        told = (
            f"the run began with ringfence {began['version']}, which held out no validation data: it goes on "
            "without, and is judged by its test data"
        )
        why = told if job.validation_fraction is None else ""
        return HoldOut(job.validation_fraction or 0.0, own_part=job.data.name == "folder", why=why)
    held, contents = then[HELD_OUT], then.get(CONTENTS)
    own_part = not held and isinstance(contents, dict) and "validation" in contents
    fraction = job.validation_fraction
    if fraction is None and isinstance(held, float) and 0 <= held < 1:
        fraction = held
    return HoldOut(fraction, own_part=own_part)


def _manifest(folder: Path) -> Mapping[str, Any] | None:
    """Return what the newest checkpoint says that can be read; None if none can, which resuming tells."""
    try:
        found = list_checkpoints(folder / CHECKPOINTS)
    except CheckpointError:
        return None
    for path in reversed(found):
        try:
            return read_manifest(path)
        except CheckpointError:
            continue
    return None
