"""Train with a plugin, as the command does, in a process of its own; torch is not imported here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..discovery.catalog import catalog, source_of
from ..hooks.errors import RingfenceError
from ..job.smoke_job import SMALL, plugins_of
from ..job.yaml_document import dump_yaml
from ..tracking.run_folder import RECORD, read_record

#: Longest that the runs of one call may take together; most of it goes into imports.
TIMEOUT_S = 120.0
#: Characters of what a trainer printed that are shown once it has failed in a way that nobody foresaw.
_TOLD = 4000


@dataclass(frozen=True, slots=True)
class SmallJob:
    """A job of seconds with one plugin, and an optimizer where that plugin is none.

    Attributes:
        plugin: Name of the plugin; it has to be installed.
        options: Its options, as a job has them.
        settings: What stands beside its name in a job: ``workers``, ``read``, ``isolation`` …
        job: Keys of the job that are to differ: ``steps``, ``model``, ``data`` …
    """

    plugin: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return what its file holds.

        Raises:
            JobError: The plugin is not installed.
        """
        role = source_of(catalog().find(self.plugin)).role
        # The optimizer goes where the plugin goes: a job that trusts the one starts no sandbox for the other.
        where = {key: value for key, value in self.settings.items() if key == "isolation"}
        plugins = plugins_of(self.plugin, role, self.options, self.settings, optimizer=where)
        # An epoch or two in place of the steps, where that is what is asked for.
        base = {key: value for key, value in SMALL.items() if key != "steps" or "epochs" not in self.job}
        return {**base, **self.job, "plugins": plugins}


@dataclass(frozen=True, slots=True)
class JobRun:
    """How a run ended, and what it left.

    Attributes:
        plugin: Name of the plugin in question.
        folder: Folder of the run.
        error: Why it did not come to its end, with the plugin's own part of the traceback; ``""`` if it did.
        host_imported: Modules of plugins that the trainer's process had imported by the end.
        record: What ``run.json`` holds; empty if nothing was trained.
    """

    plugin: str
    folder: Path
    error: str
    host_imported: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def completed(self) -> bool:
        """Whether every step was taken, and no plugin failed on the way."""
        return self.record.get("status") == "completed" and not self.faults

    @property
    def faults(self) -> Sequence[Mapping[str, Any]]:
        """The faults of plugins, each as ``run.json`` has it."""
        return list(self.record.get("faults", ()))

    @property
    def weights_sha256(self) -> str | None:
        """Digest of the trained weights."""
        return self.record.get("weights_sha256")

    @property
    def usage(self) -> Mapping[str, Any]:
        """What the plugin cost, as ``run.json`` has it: ``calls``, ``seconds``, ``peak_bytes`` and more.

        Raises:
            RingfenceError: The run ended before the plugin was started.
        """
        for entry in self.record.get("plugins", ()):
            if entry["name"] == self.plugin:
                return dict(entry)
        raise RingfenceError(f"plugin '{self.plugin}' was not started: {self.error}")

    def logged(self, name: str) -> dict[int, float]:
        """Return what the plugin logged or reported under ``name``, by step."""
        key = f"{self.plugin}/{name}"
        # What is not finite is written as text, since JSON has no such numbers.
        return {line["step"]: float(line[key]) for line in self._reports() if key in line}

    def everything_logged(self) -> dict[tuple[int, str], float | str]:
        """Return all that the plugin logged or reported, by step and name, as ``metrics.jsonl`` has it."""
        start = f"{self.plugin}/"
        return {
            (line["step"], key.removeprefix(start)): value
            for line in self._reports()
            for key, value in line.items()
            if key.startswith(start)
        }

    def _reports(self) -> list[dict[str, Any]]:
        metrics = self.folder / "metrics.jsonl"
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
        return [line for line in map(json.loads, lines) if line["kind"] == "plugin"]


def run_job(
    plugin: str,
    options: Mapping[str, Any] | None = None,
    *,
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    job: Mapping[str, Any] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> JobRun:
    """Train a small model for a few steps with one plugin in a sandbox.

    Args:
        plugin: Name of the plugin; it has to be installed.
        options: Its options, as a job has them.
        folder: Where the run is left, in a folder of its own.
        settings: What stands beside the plugin's name in a job: ``workers``, ``read``, ``isolation`` …
        job: Keys of the job that are to differ: ``steps``, ``model``, ``data`` …; paths in it start from
            the current folder.
        timeout_s: Longest that it may take, imports included.

    Returns:
        How it ended, if it failed too: ask ``completed``.

    Raises:
        RingfenceError: The plugin is not installed, or the run took too long and was killed.
    """
    small = SmallJob(plugin, options or {}, settings or {}, job or {})
    return run_jobs([small], folder, timeout_s=timeout_s)[0]


def run_jobs(jobs: Sequence[SmallJob], folder: Path, *, timeout_s: float = TIMEOUT_S) -> list[JobRun]:
    """Train one job after another, all in one process, whose start is what takes longest.

    Args:
        jobs: Those in which a plugin is trusted come last: they have the process import it.
        folder: Where the runs are left, each in a folder of its own.
        timeout_s: Longest that they may take together.

    Returns:
        How each ended.

    Raises:
        RingfenceError: A plugin is not installed, or the runs took too long and were killed, or the process
            ended in a way that ringfence did not foresee.
    """
    place = _new_folder(folder)
    names = [f"{number}-{job.plugin}" for number, job in enumerate(jobs)]
    for name, job in zip(names, jobs, strict=True):
        (place / f"{name}.yaml").write_text(dump_yaml(job.document()), encoding="utf-8")
    (place / "jobs.json").write_text(json.dumps({"base": str(Path.cwd()), "names": names}), encoding="utf-8")
    _train(place, timeout_s)
    ends = json.loads((place / "ends.json").read_text(encoding="utf-8"))
    return [
        JobRun(
            plugin=job.plugin,
            folder=place / name,
            error=end["error"],
            host_imported=tuple(end["imported"]),
            record=read_record(place / name) if (place / name / RECORD).exists() else {},
        )
        for name, job, end in zip(names, jobs, ends, strict=True)
    ]


def _new_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        place = parent / f"runs-{number}"
        try:
            place.mkdir()
        except FileExistsError:
            number += 1
        else:
            return place


def _train(place: Path, timeout_s: float) -> None:
    # "-P": nothing in the current folder may take the place of a library.
    command = [sys.executable, "-P", "-m", f"{__package__}.job_process", str(place)]
    log = place / "trainer.log"
    try:
        with log.open("wb") as file:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=timeout_s, check=False
            )
    except subprocess.TimeoutExpired as error:
        # The kernel ends the plugins of a trainer that is killed.
        raise RingfenceError(
            f"the run had not ended after {timeout_s:g} s and was killed; {_tail(log)}\n"
            "Give it more time with timeout_s, or fewer steps"
        ) from error
    if done.returncode:
        raise RingfenceError(f"the trainer ended with status {done.returncode}; {_tail(log)}")


def _tail(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")[-_TOLD:].strip()
    return f"it had printed:\n{text}" if text else "it had printed nothing"
