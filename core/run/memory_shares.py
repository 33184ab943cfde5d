"""Share the machine's memory out among the plugins of a job, before any of them is started."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from ..hooks.permissions import MAX_MEMORY_FRACTION
from ..isolation.host.limits.memory_budget import BudgetTooSmallError
from ..job.job_file import JobFile
from ..job.problems import Path, Problem
from ..plugins.interface import MAX_FRACTION_TOGETHER, PluginSpec
from ..plugins.machine_memory import GIB, MIB

#: Shares are rounded down to this, so that they can be read and written without loss.
_FINEST = 10_000
#: What sums of decimal fractions may be off by.
_ROUNDING = 1e-9


def shares(written: Sequence[float | None]) -> list[float]:
    """Return the share of the machine's memory that each plugin gets.

    Args:
        written: What the job says of each; None for one that takes an equal part of what is left.

    Raises:
        ValueError: All together they ask for more than plugins may have, or leave nothing for the rest.
    """
    left = MAX_FRACTION_TOGETHER - sum(share for share in written if share is not None)
    if left < -_ROUNDING:
        raise ValueError(f"{MAX_FRACTION_TOGETHER - left:.4g} is more than {MAX_FRACTION_TOGETHER}")
    equal = _equal_part(left, sum(share is None for share in written))
    if equal <= 0:
        raise ValueError("nothing is left")
    return [equal if share is None else share for share in written]


def _equal_part(left: float, count: int) -> float:
    if count == 0:
        return MAX_MEMORY_FRACTION
    return min(MAX_MEMORY_FRACTION, math.floor((left + _ROUNDING) / count * _FINEST) / _FINEST)


def written_shares(file: JobFile, positions: Sequence[int]) -> list[float | None]:
    """Return what a job says of the plugins at ``positions``: their own key, else the job's, else None."""
    job = file.job
    return [job.plugins[position].memory_fraction or job.memory_fraction for position in positions]


def share_out(file: JobFile, positions: Sequence[int]) -> tuple[list[float], list[Problem]]:
    """Return the shares of the sandboxed plugins at ``positions``, or what is wrong with them."""
    written = written_shares(file, positions)
    try:
        return shares(written), []
    except ValueError:
        return [], [_too_much(file, positions, written)]


def _too_much(file: JobFile, positions: Sequence[int], written: Sequence[float | None]) -> Problem:
    """Say what would fit, at the key to change."""
    count, most = len(positions), f"{MAX_FRACTION_TOGETHER:.0%}"
    asked = sum(share or 0.0 for share in written)
    said = f"{count} plugins ask for {asked:.1%} of this machine's memory together, and may have {most}; "
    fitting = _equal_part(MAX_FRACTION_TOGETHER, count)
    if asked <= MAX_FRACTION_TOGETHER + _ROUNDING:
        first = positions[written.index(None)]
        silent = sum(share is None for share in written)
        return Problem(
            ("plugins", first),
            f"nothing of the {most} of this machine's memory that plugins may have is left for the {silent} "
            f"that write no memory_fraction; lower that of the others, to {fitting} for equal shares",
        )
    if file.job.memory_fraction is not None:
        return Problem(("memory_fraction",), f"{said}write {fitting} or less, or use fewer plugins")
    return _first_too_many(positions, written, said)


def _first_too_many(positions: Sequence[int], written: Sequence[float | None], said: str) -> Problem:
    left = MAX_FRACTION_TOGETHER
    for position, share in zip(positions, written, strict=True):
        if (share or 0.0) > left + _ROUNDING:
            path: Path = ("plugins", position, "memory_fraction")
            room = math.floor((left + _ROUNDING) * _FINEST) / _FINEST
            fits = f"{room} is left for this one" if room else "nothing is left for this one"
            return Problem(path, f"{said}{fits}: lower some, or use fewer plugins")
        left -= share or 0.0
    raise ValueError("they fit")


def describe_shares(file: JobFile, specs: Sequence[PluginSpec], total_bytes: int) -> str:
    """Return what to tell of shares that are smaller than a plugin would have alone, or ``""``.

    Args:
        file: The job.
        specs: Its plugins, in its order.
        total_bytes: The machine's memory.
    """
    sandboxed = [position for position, spec in enumerate(specs) if spec.isolation == "sandbox"]
    written = written_shares(file, sandboxed)
    equal = [specs[i].memory_fraction for i, share in zip(sandboxed, written, strict=True) if share is None]
    if not equal or equal[0] >= MAX_MEMORY_FRACTION:
        return ""
    others = "" if len(equal) == len(sandboxed) else "what the others leave of "
    return (
        f"{len(equal)} plugins share {others}{MAX_FRACTION_TOGETHER:.0%} of this machine's memory: "
        f"{equal[0]:.4g} ({equal[0] * total_bytes / GIB:.1f} GiB) each"
    )


def too_small(file: JobFile, position: int, error: BudgetTooSmallError, total_bytes: int) -> Problem | None:
    """Return the fault of a job that says itself how little memory a plugin gets; None if it does not.

    Args:
        file: The job.
        position: Of the plugin.
        error: What starting it came to.
        total_bytes: The machine's memory.
    """
    entry = file.job.plugins[position]
    own = entry.memory_fraction is not None
    fraction = entry.memory_fraction if own else file.job.memory_fraction
    if fraction is None:
        return None
    needed = math.ceil(error.least_bytes * entry.workers / total_bytes * _FINEST) / _FINEST
    advice = f"write {needed} or more" + (", or use fewer workers" if entry.workers > 1 else "")
    if needed > MAX_MEMORY_FRACTION:
        advice = "use fewer workers" if entry.workers > 1 else "this machine has too little memory for it"
    path: Path = ("plugins", position, "memory_fraction") if own else ("memory_fraction",)
    given, least = (f"{size / MIB:.0f}" for size in (error.limit_bytes, error.least_bytes))
    said = f"{fraction} of this machine's memory gives each worker of '{entry.name}' {given} MiB, and torch "
    return Problem(path, f"{said}needs {least} to start; {advice}")


def with_shares(file: JobFile, specs: Sequence[PluginSpec]) -> JobFile:
    """Return the job with the share of every sandboxed plugin written out, so that it reads back equal."""
    plugins = [
        plugin.model_copy(update={"memory_fraction": spec.memory_fraction})
        if spec.isolation == "sandbox"
        else plugin
        for plugin, spec in zip(file.job.plugins, specs, strict=True)
    ]
    return dataclasses.replace(file, job=file.job.model_copy(update={"plugins": plugins}))
