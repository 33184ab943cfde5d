"""Problems of a job, with the place of each and what would be right.

A ``Problem`` names a place in the job and the fault. All problems of a job are
collected and shown together, each with file, line, column and key, or with the
flag that it came from.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..hooks.errors import shorten

#: Keys and indices that lead from the top of a document to a value.
Path = tuple[str | int, ...]

_SHOWN_CHARACTERS = 60
_LISTED_NAMES = 12
_MEANT = "; did you mean "
#: Height and width as text.
_SIDES = re.compile(r"(\d{1,6}) ?[x*, ] ?(\d{1,6})")
#: How like a name must be to be looked at, and to be what was meant whatever is wrong with it.
_SIMILAR = 0.6
_ALIKE = 0.7


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a job.

    Attributes:
        path: Where it is.
        message: What is wrong; what would be right.
        at_key: True if the key itself is at fault (unknown, repeated), not its value.
        origin: Where it was written, if the document cannot tell; a flag, for example.
    """

    path: Path
    message: str
    at_key: bool = False
    origin: str | None = None


def dotted_path(path: Path) -> str:
    """Return ``path`` as users write it: ``plugins[0].optim.lr``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like ``name``, or None if none is like it."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), by_lower, cutoff=_SIMILAR)
    return next((by_lower[near] for near in found if _is_meant(name.lower(), near)), None)


def _is_meant(name: str, near: str) -> bool:
    """Tell a slip from another word: 'cnm' is 'cnn', 'nope' is not 'noise'; difflib finds them as alike."""
    wrong_letters = sum(map(operator.ne, name, near))
    slip = len(name) == len(near) and wrong_letters == 1
    return slip or difflib.SequenceMatcher(None, near, name).ratio() >= _ALIKE


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown ``name``: what was meant, or what there is."""
    names = sorted(known)
    close = nearest(name, names)
    if close is not None:
        return f"did you mean '{close}'?"
    if not names:
        return "there are none"
    shown = ", ".join(names[:_LISTED_NAMES])
    return f"known: {shown}{', …' if len(names) > _LISTED_NAMES else ''}"


def with_period(clause: str) -> str:
    """Return a clause as the end of a sentence that may be a question."""
    return clause if clause.endswith("?") else f"{clause}."


def describe(value: object) -> str:
    """Return a value of a job as users see it, with its kind where that is the question."""
    if isinstance(value, str):
        return f"the text '{shorten(value, _SHOWN_CHARACTERS)}'"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, Sequence):
        shown = repr(value)
        return f"the list {shown}" if len(shown) <= _SHOWN_CHARACTERS else f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "nothing (null)", True: "true", False: "false"}[value]
    return shorten(repr(value), _SHOWN_CHARACTERS) if isinstance(value, int | float) else type(value).__name__


_WANTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping (key: value)",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "mapping_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "none_required": "nothing (null)",
    "sequence_type": "a list",
    "string_type": "text",
    "tuple_type": "a list",
}
#: Faults whose message by pydantic says all there is to say.
_COMPLETE = {"missing", "too_long", "too_short"}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def explain(error: Mapping[str, Any]) -> str:
    """Say in our words what one of pydantic's error records means.

    Args:
        error: An item of ``ValidationError.errors()``.
    """
    kind, value = error["type"], error.get("input")
    if kind in _WANTED:
        sides = _SIDES.fullmatch(value) if isinstance(value, str) and _WANTED[kind] == "a list" else None
        meant = "" if sides is None else f"{_MEANT}{'[{}, {}]'.format(*sides.groups())}?"
        return f"expected {_WANTED[kind]}, got {describe(value)}{meant}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{describe(value)} is out of range; it must be {words} {_bound(error['ctx'][name])}"
    if kind == "literal_error":
        return _no_choice(value, error["ctx"]["expected"])
    if kind == "value_error":
        return str(error["ctx"]["error"])
    said = f"{error['msg'][0].lower()}{error['msg'][1:]}"
    return said if kind in _COMPLETE else f"{said}, got {describe(value)}"


def either(said: Sequence[str]) -> str:
    """Return the faults of one value, each by a type that it might have had, as one message."""
    plain = [text.partition(_MEANT)[0] for text in said]
    hint = next((text[len(short) :] for text, short in zip(said, plain, strict=True) if text != short), "")
    wanted, got = zip(
        *((want, end) for want, _, end in (text.rpartition(", got ") for text in plain)), strict=True
    )
    if len(said) > 1 and len(set(got)) == 1 and all(want.startswith("expected ") for want in wanted):
        kinds = " or ".join(want.removeprefix("expected ") for want in wanted)
        return f"expected {kinds}, got {got[0]}{hint}"
    return ", or ".join(plain) + hint


def _bound(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _no_choice(value: object, expected: str) -> str:
    """Say which words there are, and which of them was probably meant."""
    message = f"expected {expected}, got {describe(value)}"
    words = [word.strip("' ") for word in expected.replace(" or ", ",").split(",")]
    close = nearest(value, words) if isinstance(value, str) else None
    return message if close is None else f"{message}{_MEANT}'{close}'?"
