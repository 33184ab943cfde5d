"""The place of a run in a data set of unknown length, as its snapshots and checkpoints keep it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from ..hooks.errors import CheckpointError
from .read_data import ReadDataset
from .sequential_samples import SequentialSamples
from .session import Session
from .setup import Setup


class StreamPlace:
    """Keeps what the data set said of itself before the next sample to train on, however far it was read.

    Args:
        samples: The data set; it says what it keeps.
        samples_a_step: Samples that a step takes.
    """

    name: ClassVar[str] = "stream"

    def __init__(self, samples: SequentialSamples, samples_a_step: int) -> None:
        self._samples, self._samples_a_step = samples, samples_a_step
        self._place = 0

    def between_steps(self, run: Session) -> None:
        """Note which sample is the next."""
        self._place = run.progress.step * self._samples_a_step

    def beside(self) -> Mapping[str, Tensor] | None:
        """Return None: the model has no other values for it."""
        return None

    def trained(self, run: Session) -> None:
        """Do nothing."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the place, and the nearest one before it at which a state is known; forget all before."""
        marks, (known, mark) = self._samples.marks, self._samples.nearest(self._place)
        for each in [each for each in marks if each < known]:
            del marks[each]
        return {"place": self._place, "known": known, "mark": mark}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back, or on, to such a place.

        Raises:
            CheckpointError: It is no such state.
        """
        match state:
            case {"place": int(place), "known": int(known), "mark": [int(passes), of_data]} if (
                0 <= known <= place and passes >= 0
            ):
                self._place = place
                self._samples.marks.clear()
                self._samples.keep(known, (passes, of_data))
            case _:
                raise CheckpointError("the place in the stream of data is none that a run was at")


def stream_places(setup: Setup) -> list[StreamPlace]:
    """Return what keeps the place in the training data, where these say where they stand."""
    train = setup.data.train
    samples = train.reader.samples if isinstance(train, ReadDataset) else None
    if not isinstance(samples, SequentialSamples) or not samples.keeps_state:
        return []
    return [StreamPlace(samples, setup.plan.batch_size * setup.plan.grad_accum_steps)]
