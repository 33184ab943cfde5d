"""The fingerprint of a run: what of its job decides the weights, and what may differ on resuming.

A checkpoint carries the fingerprint of the job that wrote it: plain data, by the job's
own keys. A job that goes on from it either agrees with it, or the user has said of each
key that differs that this is meant.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...hooks.errors import CheckpointError, JobError
from .fingerprint_diff import (
    ABSENT,
    CONTENTS,
    HELD_OUT,
    ORDER,
    STATE,
    Difference,
    differences,
    format_value,
    same,
)

ACCEPT_FLAG = "--accept"
#: Lines of one message; a job of another kind altogether differs in hundreds of keys.
MAX_LINES = 24
#: Key of the environment: the steps that a schedule is laid over; null if that makes no difference to it.
SCHEDULE_STEPS = "schedule_steps"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of a job with the checkpoint that it goes on from.

    Attributes:
        accepted: What differs; the user has said of each that it is meant.
        fresh: Plugins that are to start without the state that the checkpoint has of them.
        told: What the user must know, as sentences.
    """

    accepted: tuple[Difference, ...] = ()
    fresh: frozenset[str] = frozenset()
    told: tuple[str, ...] = ()

    def changes(self, key: str) -> bool:
        """Tell whether ``key``, or something below it, was accepted as different."""
        return any(difference.key.partition(".")[0] == key for difference in self.accepted)


def _nobody(step: int, accepted: Sequence[Difference]) -> None:
    """Take no notice of what was accepted."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What of a job decides a run's weights, and what the user lets differ when it is resumed.

    Attributes:
        values: Key of the job to its value, JSON data; ``plugins`` is a list of
            ``{name: options}``.
        environment: Where the run is: name to version, count or kind, JSON data. What differs
            here is told, never refused.
        never: Keys of ``values`` that nobody can accept as different, with why.
        accept: What the user lets differ: keys as a message tells them, or ``state.NAME``.
        remembered: What an earlier resume of the run accepted.
        started_fresh: Plugins that one started without their state, to the checkpoint's step.
        on_accepted: Told the checkpoint's step and what differs from it, if anything does, once the
            checkpoint is restored and before training begins.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    never: Mapping[str, str] = field(default_factory=dict)
    accept: frozenset[str] = frozenset()
    remembered: tuple[Difference, ...] = ()
    started_fresh: Mapping[str, int] = field(default_factory=dict)
    on_accepted: Callable[[int, Sequence[Difference]], None] = _nobody

    def compare(self, path: Path, manifest: Mapping[str, Any]) -> Comparison:
        """Compare with what a checkpoint says of the job that wrote it.

        Args:
            path: The checkpoint, for messages.
            manifest: What ``read_manifest`` returned.

        Raises:
            CheckpointError: Something differs that was not accepted, or cannot be.
            JobError: Something was accepted that does not differ.
        """
        found = differences(*self._comparable(manifest["fingerprint"]))
        keys = {key for key in self.accept if not key.startswith(STATE)}
        self._check_accepted(path, keys, found)
        states, told = self._fresh(path, manifest)
        refused = [d for d in found if self._never(d) or not (d.key in keys or self._is_remembered(d))]
        if refused:
            raise CheckpointError(self._refusal(path, refused))
        if _is_early(manifest) and any(_is_option(difference) for difference in found):
            raise CheckpointError(
                f"checkpoint {path} is of ringfence {manifest['version']}, whose plugins did not keep the "
                "options that made their state: resume with the job as it was until there is a new "
                "checkpoint, and change options then"
            )
        found += [Difference(f"{STATE}{name}", ABSENT, ABSENT) for name in sorted(states)]
        told = [*(f"accepted: {difference}" for difference in found), *told]
        told += _environment_changes(manifest.get("environment"), self.environment)
        return Comparison(tuple(found), states, tuple(told))

    def _comparable(self, then: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return the checkpoint's fingerprint and this one in words that both series know.

        A checkpoint of 0.3.0 and before lacks what the data hold; one before 0.4 has no validation part, and
        calls ``test`` what the run was judged by.
        """
        now = {key: value for key, value in self.values.items() if key != CONTENTS or key in then}
        if HELD_OUT in then or HELD_OUT not in now:
            return then, now
        parts = now.get(CONTENTS)
        if parts is not None:
            judged_by = "validation" if "validation" in parts else "test"
            now[CONTENTS] = {
                "test" if name == judged_by else name: told
                for name, told in parts.items()
                if name in ("train", judged_by, "normalisation")
            }
        return {**then, HELD_OUT: 0.0}, now

    def _never(self, difference: Difference) -> str | None:
        """Return why nobody can accept a difference; None if somebody can."""
        return self.never.get(difference.key.partition(".")[0])

    def _is_remembered(self, difference: Difference) -> bool:
        return any(
            known.key == difference.key
            and same(known.then, difference.then)
            and same(known.now, difference.now)
            for known in self.remembered
        )

    def _check_accepted(self, path: Path, keys: set[str], found: Sequence[Difference]) -> None:
        known = [difference.key for difference in found]
        # One that an earlier resume took: the same command line may be used again after an interruption.
        for key in sorted(keys - set(known) - {difference.key for difference in self.remembered}):
            why = self.never.get(key.partition(".")[0])
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; what differs: {_join_some(known)}"
            raise JobError(
                f"{ACCEPT_FLAG} {key}: checkpoint {path} and this job do not differ in that"
                f"{'' if why is None else ', and it can never be accepted'}{hint}"
            )

    def _fresh(self, path: Path, manifest: Mapping[str, Any]) -> tuple[frozenset[str], list[str]]:
        """Return the plugins that start without their state, and what to tell of others that were named."""
        plugins = {name for entry in self.values.get(ORDER, ()) for name in entry}
        fresh, told = set(), []
        for name in sorted(key.removeprefix(STATE) for key in self.accept if key.startswith(STATE)):
            before = self.started_fresh.get(name)
            if name not in plugins:
                why = f"the job has no plugin '{name}'; it has: {_join_some(sorted(plugins))}"
            elif before is not None and before < manifest["step"]:
                # The same command line again: what the plugin has gathered since is not to be lost.
                told.append(f"plugin '{name}' started without its state after step {before}: it keeps it now")
                continue
            elif name not in manifest["plugins"]:
                why = f"checkpoint {path} has no state of it, so it starts without in any case"
            else:
                fresh.add(name)
                continue
            raise JobError(f"{ACCEPT_FLAG} {STATE}{name}: {why}; leave the flag out")
        return frozenset(fresh), told

    def _refusal(self, path: Path, refused: Sequence[Difference]) -> str:
        lines = []
        for difference in refused:
            why = self._never(difference)
            lines.append(f"  {difference}" + (f" (cannot change: {why})" if why else ""))
        if len(lines) > MAX_LINES:
            lines[MAX_LINES:] = [f"  … and {len(lines) - MAX_LINES} more"]
        fixed = any(self._never(difference) for difference in refused)
        advice = (
            "What cannot change must be as it was, or this is a new run: start it with --out."
            if fixed
            else "Resume with the job as it was, or say of each key that the change is meant."
        )
        keys = [difference.key for difference in refused if not self._never(difference)]
        flags = " ".join(f"{ACCEPT_FLAG} {shlex.quote(key)}" for key in keys[:MAX_LINES])
        if flags:
            advice += f" {'The rest is' if fixed else 'All are'} accepted with: {flags}"
        head = f"checkpoint {path} is from another job; it differs from this one in:"
        return "\n".join([head, *lines, advice])


def _is_early(manifest: Mapping[str, Any]) -> bool:
    return str(manifest.get("version", "")).startswith("0.1.")


def _is_option(difference: Difference) -> bool:
    return difference.key.startswith(f"{ORDER}.") and not difference.is_plugin


def _environment_changes(then: Any, now: Mapping[str, Any]) -> list[str]:
    """Say what is other where the run goes on than where it was stopped; a checkpoint may not tell."""
    if not isinstance(then, dict):
        return []
    found = [d for d in differences(then, now) if ABSENT not in (d.then, d.now)]
    lengths = [d for d in found if d.key == SCHEDULE_STEPS]
    told = [
        f"the schedule was laid over {format_value(d.then)} steps, and is over {format_value(d.now)} now: "
        "the learning rate follows the new length"
        for d in lengths
        if d.then is not None and d.now is not None
    ]
    bits = [d for d in found if d not in lengths]
    if bits:
        listed = "; ".join(
            f"{d.key} {format_value(d.then)} then, {format_value(d.now)} now" for d in bits[:MAX_LINES]
        )
        told.append(
            f"the run goes on, but its weights may differ in the last bits from an unstopped run's: {listed}"
        )
    return told


def _join_some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_LINES]) or "nothing"
    return shown + (", …" if len(names) > MAX_LINES else "")
