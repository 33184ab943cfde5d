"""Patterns of the names of parameters in a job, tried on its model before anything is started."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..engine.setup import Setup
from ..engine.tensor_names import named_parameters, tied_names
from ..hooks.roles.optimizer import OPTIMIZER
from ..job.problems import Problem, nearest, suggest
from .load_plugins import Planned


def check_groups(planned: Sequence[Planned], setup: Setup) -> None:
    """See that each pattern in the options of our own optimizer names a parameter.

    What a stranger's options mean only its own code knows: it is asked in its first call.

    Args:
        planned: The job's plugins.
        setup: Has the model.

    Raises:
        JobError: One names none that is trained.
    """
    others = tied_names(setup.model) | dict.fromkeys(setup.frozen, "")
    trained = [name for name in named_parameters(setup.model) if name not in setup.frozen]
    for item in planned:
        if item.job_file is None or not item.is_builtin or item.spec.role != OPTIMIZER.name:
            continue
        problems = [
            Problem(
                item.job_file.option_path(item.position, *place),
                _what_it_names(pattern, others) or matches_nothing(pattern, trained),
                at_key=isinstance(place[-1], str) and place[-1] != "match",
            )
            for place, pattern in _patterns(item.spec.options)
            if not any(fnmatchcase(name, pattern) for name in trained)
        ]
        if problems:
            raise item.job_file.error(problems)


def matches_nothing(pattern: str, names: Iterable[str]) -> str:
    """Return what is wrong with a pattern, and which one may have been meant."""
    names = list(names)
    modules = {f"{prefix}.*" for name in names for prefix in _prefixes(name)}
    ends = {f"*.{name.rpartition('.')[2]}" for name in names if "." in name}
    close = nearest(pattern, (*names, *modules, *ends))
    top = {f"{name.partition('.')[0]}.*" if "." in name else name for name in names}
    meant = suggest(pattern, top) if close is None else f"did you mean '{close}'?"
    return f"'{pattern}' matches no parameter of the model; {meant}"


def _what_it_names(pattern: str, others: dict[str, str]) -> str:
    """Tell what a pattern names that is no parameter of a group: a frozen one, or a further name of one."""
    name = next((name for name in others if fnmatchcase(name, pattern)), None)
    if name is None:
        return ""
    if others[name]:
        return f"'{pattern}' is another name of a tied parameter; write '{others[name]}'"
    return f"'{pattern}' matches no parameter that is trained; '{name}' is frozen by the job"


def _patterns(options: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield where in the options of ``optim`` a pattern is, and it; of what has another form that tells."""
    for index, entry in enumerate(options.get("groups") or ()):
        match entry:
            case {"match": str(whole)}:
                place: tuple[str | int, ...] = ("groups", index, "match")
            case {**items} if len(items) == 1:
                whole = str(next(iter(items)))
                place = ("groups", index, whole)
            case _:
                continue
        yield from ((place, pattern) for pattern in whole.split("|"))
    spared = options.get("no_decay")
    for index, pattern in enumerate(spared if isinstance(spared, list) else ()):
        yield ("no_decay", index), pattern


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
