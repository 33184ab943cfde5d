"""Faults of loggers, told in a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..hooks.errors import JobError, shorten, visible

_MAX_TOLD = 400


@contextmanager
def explained(name: str, *kinds: type[Exception]) -> Iterator[None]:
    """Tell what a logger raises of its own kinds as an error that was foreseen.

    Args:
        name: Of the logger.
        kinds: What it raises.

    Raises:
        JobError: It has raised one of them.
    """
    try:
        yield
    except kinds as error:
        told = visible(shorten(" ".join(str(error).split()), _MAX_TOLD))
        raise JobError(f"--to {name}: {told or type(error).__name__}") from error
