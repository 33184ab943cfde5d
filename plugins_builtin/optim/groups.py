"""Groups of parameters, each with its settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

from torch import nn

from ringfence import make_schedule

from .algorithms import nearest

#: The setting of a group that is none of the algorithm's.
SCHEDULE = "schedule"


class Schedule(Protocol):
    """The factor of a group's learning rate over steps."""

    def factor(self, step: int, steps_total: int) -> float:
        """Return it for a step, from 0."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """Rules that sort parameters into groups; made from the job, applied to any model.

    Attributes:
        overrides: Patterns of names, ``|`` between them, and the settings of the parameters that match one;
            the first match holds.
        no_decay: Patterns of names without weight decay, or ``"auto"`` for vectors and scalars.
        weight_decay: Of the parameters for which nothing else is said.
    """

    overrides: tuple[tuple[str, Mapping[str, Any]], ...]
    no_decay: tuple[str, ...] | str
    weight_decay: float

    def apply(self, parameters: Mapping[str, nn.Parameter]) -> list[tuple[list[str], dict[str, Any]]]:
        """Sort ``parameters`` into groups.

        Returns:
            For each group that has parameters, their names and their settings; in the
            order in which the model has them.

        Raises:
            ValueError: A pattern matches no parameter, or none that an earlier one leaves.
        """
        self._check_patterns(list(parameters))
        groups: list[tuple[list[str], dict[str, Any]]] = []
        for name, parameter in parameters.items():
            settings = self._settings(name, parameter)
            members = next((members for members, known in groups if known == settings), None)
            if members is None:
                groups.append(([name], settings))
            else:
                members.append(name)
        return groups

    def _settings(self, name: str, parameter: nn.Parameter) -> dict[str, Any]:
        settings = next((dict(s) for pattern, s in self.overrides if matches(name, pattern)), {})
        # Where nothing decays, a group of its own would change nothing.
        decays = settings.get("weight_decay", self.weight_decay) != 0.0
        if decays and "weight_decay" not in settings and self._spared(name, parameter):
            settings["weight_decay"] = 0.0
        return settings

    def _spared(self, name: str, parameter: nn.Parameter) -> bool:
        if isinstance(self.no_decay, str):
            return parameter.dim() <= 1
        return any(fnmatchcase(name, pattern) for pattern in self.no_decay)

    def _check_patterns(self, names: list[str]) -> None:
        spared = () if isinstance(self.no_decay, str) else self.no_decay
        for pattern in (*(each for whole, _ in self.overrides for each in whole.split("|")), *spared):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f"'{pattern}' matches no parameter{nearest(pattern, names)}; the model has "
                    f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}"  # noqa: PLR2004 - enough to see the style
                )
        left = names
        for pattern, _ in self.overrides:
            rest = [name for name in left if not matches(name, pattern)]
            if len(rest) == len(left):
                raise ValueError(
                    f"group '{pattern}' would be empty: all that it matches belongs to the groups before it; "
                    "the first match holds, so put it before them"
                )
            left = rest


def matches(name: str, pattern: str) -> bool:
    """Tell whether one of the patterns that ``|`` parts is that of a name."""
    return any(fnmatchcase(name, each) for each in pattern.split("|"))


def parse_overrides(
    groups: Iterable[Any], defaults: Mapping[str, Any]
) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Read the ``groups`` option: entries of a pattern and its settings.

    Args:
        groups: Such as ``{"match": "head.*", "lr": 0.1}`` or ``{"head.*": {"lr": 0.1}}``.
        defaults: Settings that the algorithm has by group.

    Raises:
        ValueError: An entry has another form, or the algorithm has no such setting.
    """
    overrides = []
    for entry in groups:
        pattern, settings = _split(entry)
        for key, value in settings.items():
            if key == SCHEDULE:
                _check_schedule(pattern, value, defaults)
            else:
                _check_setting(pattern, key, value, defaults)
        overrides.append((pattern, settings))
    return tuple(overrides)


def _split(entry: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(entry, dict):
        settings = {key: value for key, value in entry.items() if key != "match"}
        for pattern, of_it in ((entry.get("match"), settings), *(entry.items() if len(entry) == 1 else ())):
            if isinstance(pattern, str) and isinstance(of_it, dict):
                if all(pattern.split("|")):
                    return pattern, of_it
                raise ValueError(f"groups has the pattern '{pattern}'; '|' stands between two patterns")
    raise ValueError(f"groups has the entry {entry!r}; write '- {{match: <pattern>, lr: 0.1}}'")


def schedule_of(told: Any) -> Schedule:
    """Return the schedule of a group: a name, or a mapping of it and its options.

    Raises:
        ValueError: There is none such.
    """
    match told:
        case str(name):
            return make_schedule(name)
        case {"name": str(name), **options}:
            return make_schedule(name, **{str(key): value for key, value in options.items()})
    raise ValueError(f"a schedule is {told!r:.80}; write a name, or {{name: …, option: …}}")


def _check_schedule(pattern: str, told: Any, defaults: Mapping[str, Any]) -> None:
    if defaults.get("lr") is None:
        raise ValueError(f"group '{pattern}' sets a schedule, and the algorithm has no learning rate")
    try:
        schedule_of(told)
    except ValueError as error:
        raise ValueError(f"group '{pattern}': {error}") from error


def _check_setting(pattern: str, key: Any, value: Any, defaults: Mapping[str, Any]) -> None:
    if (type(defaults.get(key)), type(value)) == (bool, str):
        raise ValueError(f"group '{pattern}': {key} is the text '{value:.40}'; write true or false")
    if key not in defaults:
        raise ValueError(
            f"group '{pattern}' sets '{key}', which the algorithm does not have by group"
            f"{nearest(str(key), [*defaults, SCHEDULE])}; it has: {', '.join(sorted([*defaults, SCHEDULE]))}"
        )
    if _is_number(defaults[key]) and not (_is_number(value) and math.isfinite(value)):
        raise ValueError(f"group '{pattern}' sets {key} to {value!r}; expected a number")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
