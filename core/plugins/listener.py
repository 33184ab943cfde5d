"""Whom the plugins' manager tells what happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ..hooks.types import Report, StepInfo


class Listener(Protocol):
    """Where the manager tells what plugins report and what became of them."""

    def reported(
        self, plugin: str, step: StepInfo, scalars: Mapping[str, float], report: Report | None
    ) -> None:
        """Take what ``plugin`` logged or returned at ``step``."""

    def event(self, message: str) -> None:
        """Take one decision about a plugin, as a sentence."""


class Silent:
    """A listener that drops everything."""

    def reported(
        self, plugin: str, step: StepInfo, scalars: Mapping[str, float], report: Report | None
    ) -> None:
        """Drop it."""

    def event(self, message: str) -> None:
        """Drop it."""
