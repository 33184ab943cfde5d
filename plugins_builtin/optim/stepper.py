"""The stepper: what a wrapper asks of the optimizer inside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Stepper(Protocol):
    """The interface of an optimizer to ``Optim``."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters with their settings, live."""

    @property
    def step(self) -> Callable[..., Any]:
        """Update the parameters from their ``grad``; may take a closure."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a continuation needs."""

    def load_state_dict(self, state_dict: Any) -> None:
        """Take it back."""
