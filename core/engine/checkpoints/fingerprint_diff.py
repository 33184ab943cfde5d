"""Differences of two fingerprints, key by key, as a user writes the keys."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ...hooks.errors import shorten


class _Absent(Enum):
    """The type of ``ABSENT``: null is a value that a job may have."""

    ABSENT = "absent"


#: Stands for a key that a job does not have.
ABSENT: Final = _Absent.ABSENT

#: Key of the order in which a job lists its plugins.
ORDER = "plugins"
#: Accepting ``state.NAME`` starts the plugin NAME without the state that it has in the checkpoint.
STATE = "state."
#: Key of what the data hold, which no job says.
CONTENTS = "data_contents"
#: Key of the share of the training samples that is held out for validation; runs before 0.4 had none.
HELD_OUT = "validation_fraction"
_MAX_VALUE = 80
_DEEPEST = 64


@dataclass(frozen=True, slots=True)
class Difference:
    """One key of which checkpoint and job do not say the same.

    Attributes:
        key: As ``--set`` takes it: ``batch_size``, ``plugins.augment.ops.0.affine.p``.
        then: Its value in the checkpoint; ``ABSENT`` if it has none.
        now: Its value in the job; ``ABSENT`` if it has none.
        is_plugin: Whether it is about a whole plugin, which only one of the two has.
    """

    key: str
    then: Any
    now: Any
    is_plugin: bool = False

    def __str__(self) -> str:
        if self.key == ORDER and isinstance(self.then, list) and isinstance(self.now, list):
            then, now = (_truncate(", ".join(map(str, names))) for names in (self.then, self.now))
            return f"{ORDER}: in the order {then} in the checkpoint, {now} in this job"
        if self.key.startswith(STATE):
            return f"{self.key}: the plugin starts without its state; that stays in the checkpoint"
        if self.is_plugin and self.then is ABSENT:
            return f"{self.key}: not in the checkpoint; it starts without state"
        if self.is_plugin:
            return f"{self.key}: in the checkpoint, not in this job; its state is left behind"
        then, now = format_value(self.then), format_value(self.now)
        if self.key.partition(".")[0] == CONTENTS:
            return f"{self.key}: the data have changed: {then} then, {now} now"
        return f"{self.key}: {then} in the checkpoint, {now} in this job"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON data; what is absent is left out."""
        values = {"then": self.then, "now": self.now}
        return {"key": self.key, **{name: value for name, value in values.items() if value is not ABSENT}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Difference:
        """Return what ``to_dict`` made of it."""
        return cls(str(data.get("key")), data.get("then", ABSENT), data.get("now", ABSENT))


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Return what two fingerprints do not have in common, key by key as a user writes them.

    Args:
        then: Of the checkpoint.
        now: Of the job; tuples count as lists.
    """
    # Through JSON, as the saved one went: tuples become lists.
    now = json.loads(json.dumps(dict(now)))
    found: list[Difference] = []
    for key in dict.fromkeys([*then, *now]):
        old, new = then.get(key, ABSENT), now.get(key, ABSENT)
        if key == ORDER and _are_plugins(old) and _are_plugins(new):
            found += _plugin_differences(old, new)
        else:
            found += _below(key, old, new, 0)
    return found


def _are_plugins(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _plugin_differences(then: list[Any], now: list[Any]) -> Iterator[Difference]:
    old = {name: options for entry in then for name, options in entry.items()}
    new = {name: options for entry in now for name, options in entry.items()}
    for name in dict.fromkeys([*old, *new]):
        if name in old and name in new:
            yield from _below(f"{ORDER}.{name}", old[name], new[name], 0)
        else:
            whole = old.get(name, ABSENT), new.get(name, ABSENT)
            yield Difference(f"{ORDER}.{name}", *whole, is_plugin=True)
    orders = [name for name in old if name in new], [name for name in new if name in old]
    if orders[0] != orders[1]:
        yield Difference(ORDER, *orders)


def _below(key: str, then: Any, now: Any, depth: int) -> Iterator[Difference]:
    """Yield what differs at ``key`` and below: as deep as both sides have the same form."""
    if same(then, now):
        return
    if depth < _DEEPEST and isinstance(then, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*then, *now]):
            yield from _below(f"{key}.{name}", then.get(name, ABSENT), now.get(name, ABSENT), depth + 1)
    elif depth < _DEEPEST and _lists_of_mappings(then, now):
        for index, (old, new) in enumerate(zip(then, now, strict=True)):
            yield from _below(f"{key}.{index}", old, new, depth + 1)
    else:
        yield Difference(key, then, now)


def _lists_of_mappings(then: Any, now: Any) -> bool:
    """Tell whether two lists can be compared entry by entry; one of numbers is shown as a whole."""
    if not (isinstance(then, list) and isinstance(now, list) and len(then) == len(now)):
        return False
    return any(isinstance(entry, dict) for entry in [*then, *now])


def same(then: Any, now: Any) -> bool:
    """Tell whether two values of a job are equal; unlike to Python, true is not 1 and NaN is NaN."""
    if isinstance(then, float) and isinstance(now, float) and math.isnan(then) and math.isnan(now):
        return True
    if isinstance(then, bool) != isinstance(now, bool):
        return False
    if isinstance(then, dict) and isinstance(now, dict):
        return then.keys() == now.keys() and all(same(then[key], now[key]) for key in then)
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(map(same, then, now))
    return bool(then == now)


def format_value(value: Any) -> str:
    """Return a value of a job on one line, cut where it is long."""
    if value is ABSENT:
        return "not set"
    return _truncate(value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False))


def _truncate(text: str) -> str:
    return shorten(" ".join(text.split()), _MAX_VALUE)
