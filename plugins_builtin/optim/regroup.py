"""Regroup a saved state when the options of the job have changed since.

Moments and whatever else an algorithm keeps come from the state. So do settings that it
changes by itself on the way. Only what the job now says otherwise comes from the job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .stepper import Stepper
from .wrappers import Lookahead, MuonWithAdamW, Sam

Names = Sequence[Sequence[str]]


def overrule(
    groups: Sequence[dict[str, Any]], then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> None:
    """Set in ``groups`` what the job says otherwise than when the state was saved.

    Args:
        groups: Parameter groups with what was saved; changed in place.
        then: Settings of each group as the options of that time made them, before any step.
        now: The same for the options of today.
    """
    for group, old, new in zip(groups, then, now, strict=True):
        group.update(
            {
                key: value
                for key, value in new.items()
                if key not in old or _plainly(old[key]) != _plainly(value)
            }
        )


def by_first_name(entries: Sequence[Any], old: Names, new: Names) -> list[Any]:
    """Return, for each of the groups ``new``, the entry of the old group that held its first parameter.

    Args:
        entries: One for each of the groups ``old``.
        old: Names of the parameters in each group, as saved.
        new: The same as grouped today.
    """
    holder = {name: entry for names, entry in zip(old, entries, strict=True) for name in names}
    return [holder[names[0]] for names in new]


def regrouped(saved: Mapping[str, Any], old: Names, new: Names, dims: Mapping[str, int]) -> dict[str, Any]:
    """Return a saved state laid out for other groups of the same parameters.

    Args:
        saved: What ``state_dict`` of an optimizer, or of one of our wrappers, returned.
        old: Names of the parameters in each group, as saved.
        new: The same as grouped today.
        dims: Parameter name to its number of dimensions, by which Muon parts them.

    Raises:
        ValueError: The state has another form than torch's.
    """
    if "base" in saved:
        whole = {**saved, "base": regrouped(saved["base"], old, new, dims)}
        if saved.get("slow"):
            slow = dict(zip(_flat(old), saved["slow"], strict=True))
            whole["slow"] = [slow[name] for name in _flat(new)]
        return whole
    if saved.keys() == {"state", "param_groups"}:
        return _torch_form(saved, old, new)
    if saved.keys() <= _MUON_TAKES.keys():
        return {
            part: _torch_form(state, *(_part(names, dims, _MUON_TAKES[part]) for names in (old, new)))
            for part, state in saved.items()
        }
    raise ValueError("the saved state belongs to other groups of parameters, and cannot be sorted anew")


def laid_out(optimizer: Stepper, names: Names, dims: Mapping[str, int]) -> Names:
    """Return the names in each of the groups that ``optimizer`` makes of the groups ``names``."""
    if isinstance(optimizer, Lookahead | Sam):
        return laid_out(optimizer.base, names, dims)
    if isinstance(optimizer, MuonWithAdamW):
        return [part for takes in _MUON_TAKES.values() for part in _part(names, dims, takes)]
    return names


def _torch_form(saved: Mapping[str, Any], old: Names, new: Names) -> dict[str, Any]:
    index = {name: i for i, name in enumerate(_flat(new))}
    order = _flat(old)
    groups = by_first_name(saved["param_groups"], old, new)
    return {
        "state": {
            index[order[key]] if isinstance(key, int) else key: value for key, value in saved["state"].items()
        },
        "param_groups": [
            {**group, "params": [index[name] for name in names]}
            for group, names in zip(groups, new, strict=True)
        ],
    }


_MUON_TAKES: Mapping[str, Callable[[int], bool]] = {
    "muon": lambda dims: dims > 1,
    "adamw": lambda dims: dims <= 1,
}


def _part(names: Names, dims: Mapping[str, int], takes: Callable[[int], bool]) -> list[list[str]]:
    parts = [[name for name in group if takes(dims[name])] for group in names]
    return [part for part in parts if part]


def _plainly(value: Any) -> Any:
    """Return ``value`` as it comes back from a checkpoint, where tuples are lists."""
    return [_plainly(item) for item in value] if isinstance(value, list | tuple) else value


def _flat(names: Names) -> list[str]:
    return [name for group in names for name in group]
