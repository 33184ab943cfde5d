"""Typed options: what each may be, and messages that say so.

An option is a dataclass field made by ``option``; its kind turns what the job
says into the value that the operation uses, or raises.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol


class Kind(Protocol):
    """A kind of option: what it may be."""

    def read(self, value: Any) -> Any:
        """Return the value to use.

        Raises:
            ValueError: ``value`` is not one; the message completes "<option> must be …".
        """


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Number:
    """A number from ``low`` to ``high``; without ``low_included`` it must be above ``low``."""

    low: float
    high: float
    low_included: bool = True

    def read(self, value: Any) -> float:
        """Return ``value`` as a float."""
        inside = _is_number(value) and self.low <= value <= self.high
        if not inside or (value == self.low and not self.low_included):
            opening = "from" if self.low_included else "above"
            raise ValueError(f"a number {opening} {self.low:g} to {self.high:g}")
        return float(value)


@dataclass(frozen=True)
class Integer:
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int

    def read(self, value: Any) -> int:
        """Return ``value``."""
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise ValueError(f"a whole number from {self.low} to {self.high}")
        return value


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def read(self, value: Any) -> bool:
        """Return ``value``."""
        if not isinstance(value, bool):
            raise ValueError("true or false")  # noqa: TRY004 - one error class for all that a job can get wrong
        return value


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def read(self, value: Any) -> str:
        """Return ``value``."""
        if value not in self.words:
            raise ValueError("one of " + ", ".join(self.words))
        return str(value)


@dataclass(frozen=True)
class Span:
    """A range ``[from, to]``, or one number.

    One number v means ``[v, v]``, or ``[-v, v]`` if ``mirrored``.
    """

    low: float
    high: float
    mirrored: bool = False

    def read(self, value: Any) -> tuple[float, float]:
        """Return both ends."""
        if _is_number(value):
            ends = [-value if self.mirrored else value, value]
        else:
            ends = list(value) if isinstance(value, (list, tuple)) else []
        fits = len(ends) == 2 and all(_is_number(end) for end in ends)  # noqa: PLR2004 - two ends
        if not fits or not self.low <= ends[0] <= ends[1] <= self.high:
            raise ValueError(
                f"a number or a range [from, to] within {self.low:g} to {self.high:g}, from <= to"
            )
        return float(ends[0]), float(ends[1])


@dataclass(frozen=True)
class Integers:
    """A list of whole numbers from ``low`` to ``high``, or one of them."""

    low: int
    high: int
    may_be_empty: bool = False

    def read(self, value: Any) -> tuple[int, ...]:
        """Return them all."""
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        one = Integer(self.low, self.high)
        try:
            if values or self.may_be_empty:
                return tuple(one.read(item) for item in values)
        except ValueError:
            pass
        raise ValueError(f"a list of whole numbers from {self.low} to {self.high}")


@dataclass(frozen=True)
class Key:
    """A key of the inputs, or none."""

    def read(self, value: Any) -> str | None:
        """Return ``value``."""
        if value is not None and (not isinstance(value, str) or not value):
            raise ValueError("a key of the inputs, as text")
        return value


@dataclass(frozen=True)
class Fill:
    """A grey level from 0 to 1, or ``mean``."""

    def read(self, value: Any) -> float | str:
        """Return ``value``."""
        if value == "mean":
            return "mean"
        if not _is_number(value) or not 0 <= value <= 1:
            raise ValueError("a number from 0 to 1, or the word mean")
        return float(value)


def option(default: Any, kind: Kind) -> Any:
    """Declare a field of an operation."""
    return dataclasses.field(default=default, metadata={"kind": kind})


def check_options(instance: Any) -> None:
    """Turn each option of a dataclass instance into the value to use.

    Raises:
        ValueError: One is not what its kind asks for.
    """
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        try:
            setattr(instance, field.name, field.metadata["kind"].read(value))
        except ValueError as error:
            raise ValueError(f"{field.name} is {value!r:.60}; it must be {error}") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean A, B?"`` for the known words that resemble ``word``, or nothing."""
    by_lower: dict[str, str] = {name.lower().replace("_", ""): name for name in known}
    close = difflib.get_close_matches(word.lower().replace("_", ""), by_lower, n=3, cutoff=0.6)
    return f"; did you mean {', '.join(by_lower[name] for name in close)}?" if close else ""
