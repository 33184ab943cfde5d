"""Drivers: systems of the host that act on a run between its steps, and on what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from torch import Tensor

RunT_contra = TypeVar("RunT_contra", contravariant=True)


class Driver(Protocol[RunT_contra]):
    """Acts on the model of a run, as a plugin may not; implemented in a room of its own.

    What it does must follow from the run, its own state and the step alone: a run that is rolled back or
    resumed asks it again, and must come to the same weights.
    """

    @property
    def name(self) -> str:
        """What a checkpoint keeps its state under; no other driver of the run has it."""

    def between_steps(self, run: RunT_contra) -> None:
        """Act after a step, before the evaluation, snapshot and checkpoint that are due then.

        What it changes of the model is evaluated and kept with that. A ``PluginError`` is handled as one in a
        step: the run goes back to its last snapshot, and asks again.
        """

    def beside(self) -> Mapping[str, Tensor] | None:
        """Return other values of parameters and buffers, which each evaluation judges beside the model's own.

        None if there are none. They are only read; a run takes no decision by what they are worth.
        """

    def trained(self, run: RunT_contra) -> None:
        """Work on a run that has come to its end, evaluated and kept; never one that is interrupted.

        It leaves the model's weights and buffers as they are, or the run ends with an error: what is to be
        made of them is made of a copy. A run that is resumed at its end asks again.
        """

    def state_dict(self) -> Mapping[str, Any]:
        """Return plain data, which is copied into snapshots and checkpoints."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back, or on, to what ``state_dict`` gave, in this process or an earlier one.

        Called before the model's tensors are compared with a checkpoint's, and before they are put back.
        """
