"""The job of a run in words, and the commands that go on with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..hooks.errors import shorten
from ..job.job_file import SUM, TERMS
from ..job.job_values import plugins_of, read_job
from ..tracking.run_folder import JOB, quoted
from .formats import words
from .run_data import RunData

_MAX_VALUE = 40
_MAX_OPTIONS = 4
_MAX_PLUGINS = 12
#: How a run ended that can be gone on with.
_UNFINISHED = frozenset({"interrupted", "running", "aborted", "failed"})


def job_words(run: RunData) -> list[str]:
    """Return a job as sentences; none where there is nothing to tell."""
    job = read_job(run.job)
    if not job:
        return []
    return [" ".join(_first(job, run)), *_second(job), *_plugins(job)]


def commands(run: RunData) -> list[tuple[str, str]]:
    """Return what to type to go on with a run or to repeat it: what for, and the command."""
    folder: Path = run.path.absolute()
    if not run.job:
        return []
    again = ("Run it again", f"ringfence train {quoted(folder / JOB)}")
    if run.record.get("status") in _UNFINISHED and run.record.get("checkpoint"):
        return [("Go on with it", f"ringfence train --resume {quoted(folder)}"), again]
    return [again]


def _first(job: Mapping[str, Any], run: RunData) -> Iterator[str]:
    """Yield the parts of the sentence about model, data and length."""
    yield f"Trains {_choice(job.get('model'))} on {_choice(job.get('data'))}"
    parts = {"train": "training", "validation": "validation", "test": "test"}
    sizes = [
        f"{run.info[f'{part}_samples']:,} {name}"  # type: ignore[literal-required]
        for part, name in parts.items()
        if run.info.get(f"{part}_samples")
    ]
    if sizes:
        yield f"({', '.join(sizes)} samples)"
    if job.get("epochs"):
        yield f"for {_value(job['epochs'])} epoch{'s' * (job['epochs'] != 1)}"
    elif job.get("steps"):
        yield f"for {_value(job['steps'])} step{'s' * (job['steps'] != 1)}"
    accumulated = job.get("grad_accum_steps", 1)
    several = f", {_value(accumulated)} of them a step" if accumulated != 1 else ""
    yield f"in batches of {_value(job.get('batch_size'))}{several}."


def _second(job: Mapping[str, Any]) -> Iterator[str]:
    yield f"Minimises {_losses(job.get('loss'))}, judged by {_metric(job.get('metric'))}."
    schedule = _choice(job.get("schedule"))
    if schedule != "constant":
        yield f"Schedule of the learning rate: {schedule}."
    averages = job.get("averaging")
    if isinstance(averages, Mapping):
        chosen = ((name, averages.get(name)) for name in ("ema", "swa"))
        told = [_with_options(name, options) for name, options in chosen if isinstance(options, Mapping)]
        if told:
            yield f"Averages the weights: {', '.join(told)}."
    stopping = job.get("early_stopping")
    if isinstance(stopping, Mapping):
        patience = stopping.get("patience")
        yield f"Stops after {_value(patience)} evaluation{'s' * (patience != 1)} without a gain."


def _plugins(job: Mapping[str, Any]) -> Iterator[str]:
    told = [_with_options(name, options) for name, options, _ in plugins_of(job)]
    if told:
        more = f" and {len(told) - _MAX_PLUGINS} more" if len(told) > _MAX_PLUGINS else ""
        yield f"Plugins, in this order: {', '.join(told[:_MAX_PLUGINS])}{more}."


def _losses(value: object) -> str:
    """Return a loss, or several in a list."""
    terms = value.get(TERMS) if isinstance(value, Mapping) and value.get("name") == SUM else None
    if not isinstance(terms, list):
        return _choice(value)
    more = f" and {len(terms) - _MAX_OPTIONS} more" if len(terms) > _MAX_OPTIONS else ""
    return ", ".join(map(_choice, terms[:_MAX_OPTIONS])) + more


def _metric(value: object) -> str:
    return _choice(value) if isinstance(value, Mapping) else words(_value(value))


def _choice(value: object) -> str:
    """Return something chosen by name, with its options."""
    if not isinstance(value, Mapping):
        return _value(value)
    options = {key: option for key, option in value.items() if key != "name"}
    return _with_options(_value(value.get("name")), options)


def _with_options(name: str, options: Mapping[str, Any]) -> str:
    told = [f"{words(key)} {_value(value)}" for key, value in options.items() if value is not None]
    more = ", …" if len(told) > _MAX_OPTIONS else ""
    return (
        f"{name.replace('_', ' ')} ({', '.join(told[:_MAX_OPTIONS])}{more})"
        if told
        else name.replace("_", " ")
    )


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return shorten(", ".join(_value(item) for item in value), _MAX_VALUE)
    if isinstance(value, Mapping):
        return shorten(" ".join(f"{key} {_value(one)}" for key, one in value.items()), _MAX_VALUE)
    return shorten(str(value), _MAX_VALUE)
