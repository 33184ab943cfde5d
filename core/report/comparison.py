"""Several runs beside each other: what differed in their jobs, and what came of it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..hooks.errors import CheckpointError, JobError, visible
from ..job.job_values import flat_values, plugins_of, read_job, text_of
from ..tracking import run_folder
from ..tracking.model_record import read_model_record
from . import formats
from .charts import MAX_LINES, line_chart
from .run_data import Curve, RunData, read_run

#: As many as a chart has colours.
MAX_RUNS = MAX_LINES
#: Keys of which no job has more than some hundreds.
MAX_ROWS = 500
MAX_CHARTS = 12
ABSENT = "–"  # noqa: RUF001 - as in the report's tables
#: Follows from the training data.
_NORMALISATION = "normalisation"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Attributes:
        key: What is compared.
        values: One a run.
        best: Which of them are the best; none where there is no better or worse.
    """

    key: str
    values: Sequence[str]
    best: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several runs beside each other.

    Attributes:
        names: Of the runs, all different.
        statuses: How each ended.
        differences: Of jobs, data, code and versions: only what is not the same in all.
        outcomes: What came of them.
        charts: Title and SVG.
        left_out: What is not taken from the folders, and why.
    """

    names: Sequence[str]
    statuses: Sequence[str]
    differences: Sequence[Row]
    outcomes: Sequence[Row]
    charts: Sequence[tuple[str, str]]
    left_out: Sequence[str]


def compare_runs(folders: Sequence[Path], *, charts: bool = True) -> Comparison:
    """Read runs, whose folders may come from anybody, and compare them.

    Args:
        folders: At least two.
        charts: Whether to draw their curves, which takes a second.

    Raises:
        JobError: One is no run, or there are too few or too many.
    """
    if not 1 < len(folders) <= MAX_RUNS:
        are = "is" if len(folders) == 1 else "are"
        raise JobError(f"compare takes 2 to {MAX_RUNS} runs; {len(folders)} {are} named")
    for folder in folders:
        run_folder.check_run(folder)
    runs = [read_run(folder) for folder in folders]
    names = _names(folders)
    left_out = [
        f"{name}: {told}" for name, run in zip(names, runs, strict=True) for told in run.left_out.told()
    ]
    return Comparison(
        names=names,
        statuses=[_status(run) for run in runs],
        differences=list(itertools.islice(_differences(runs), MAX_ROWS)),
        outcomes=list(_outcomes(runs)),
        charts=list(itertools.islice(_charts(names, runs), MAX_CHARTS)) if charts else [],
        left_out=left_out,
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """Return as many last parts of the paths as tell them apart, or else their numbers."""
    whole = [folder.absolute().parts for folder in folders]
    for count in range(1, 4):
        names = [visible("/".join(parts[-count:])) for parts in whole]
        if len({*names}) == len(names):
            return names
    return [f"{number}: {visible(folder.name)}" for number, folder in enumerate(folders, 1)]


# what differed


def _differences(runs: Sequence[RunData]) -> Iterator[Row]:
    """Yield the keys of which the values are not all the same, those of the job first."""
    jobs = [read_job(run.job) for run in runs]
    everywhere = set.intersection(*({plugin["name"] for plugin in run.entries} for run in runs))
    for tables in (_job_tables(jobs), [_surroundings(run, everywhere) for run in runs]):
        for key in dict.fromkeys(itertools.chain.from_iterable(tables)):
            values = [table.get(key, ABSENT) for table in tables]
            if len({*values}) > 1:
                yield Row(key, values)


def _job_tables(jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return key to value of each job; settings of plugins that only some have are but defaults."""
    everywhere = set.intersection(*({name for name, _, _ in plugins_of(job)} for job in jobs))
    return [flat_values(job, everywhere.__contains__) for job in jobs]


def _surroundings(run: RunData, everywhere: Collection[str]) -> dict[str, str]:
    """Return what a run depends on beside its job: data, code, versions, machine."""
    record = run.record
    try:
        digests = read_model_record(run.path).data_digest
    except CheckpointError as error:
        digests = {}
        if "holds no" not in str(error):
            run.left_out.add(str(error))
    values: dict[str, object] = {
        f"{part} data": digest for part, digest in digests.items() if part != _NORMALISATION
    }
    for plugin in run.entries:
        name = plugin["name"]
        if name not in everywhere:
            continue
        values[f"code of {name}"] = " ".join(
            str(plugin[key])[:16] for key in ("distribution", "version", "sha256") if plugin.get(key)
        )
    for what in ("ringfence_version", "torch_version", "python_version", "platform", "device", "threads"):
        values[formats.words(what)] = record.get(what)
    return {key: text_of(value) for key, value in values.items() if value is not None}


# what came of it


def _status(run: RunData) -> str:
    status = run.record.get("status", "unknown").replace("_", " ")
    return f"{status} ({run.cut_down})" if run.cut_down else status


def _outcomes(runs: Sequence[RunData]) -> Iterator[Row]:
    """Yield what came of the runs; a figure that none has is left out.

    A run that was cut down is the best in nothing: it may be judged by what it was trained on.
    """
    losses = {text_of(read_job(run.job).get("loss")) for run in runs}
    yield Row("status", [_status(run) for run in runs])
    for part, average in itertools.product(("validation", "test"), ("", "ema", "swa")):
        figures = [
            _last(run.averaged.get((part, average), {})) if average else _figures(run, part) for run in runs
        ]
        for name in dict.fromkeys(itertools.chain.from_iterable(figures)):
            found = [each.get(name) for each in figures]
            rivals = [None if run.cut_down else value for run, value in zip(runs, found, strict=True)]
            having = (run for run, value in zip(runs, rivals, strict=True) if value is not None)
            higher = {_is_higher_better(run, name) for run in having}
            texts = [ABSENT if value is None else formats.metric(name, value) for value in found]
            # Losses of two kinds are no better or worse than each other.
            is_loss = name == "loss" or name.startswith("loss_")
            is_one_kind = len(higher) == 1 and (not is_loss or len(losses) == 1)
            best = _best(rivals, higher.pop()) if is_one_kind else frozenset()
            yield Row(_figure_name(part, name, average), texts, best)
    for name in dict.fromkeys(_best_name(run) for run in runs):
        yield from _row(name, runs, partial(_best_words, name))
    yield from _row("best at step", runs, lambda run: _count(run.record.get("best_step")))
    yield from _row("steps", runs, lambda run: _count(run.record.get("steps")))
    yield from _row("time", runs, lambda run: _optional(formats.duration, run.record.get("seconds")))
    yield from _row(
        "steps a second", runs, lambda run: _optional(formats.number, run.record.get("steps_per_second"))
    )
    yield from _row("parameters", runs, lambda run: _count(run.info.get("parameters")))
    yield from _row("peak memory of plugins", runs, _peak)
    yield from _row("faults of plugins", runs, _faults)
    yield from _row("steps lost", runs, lambda run: _count(run.record.get("steps_lost") or None))
    yield from _row("weights", runs, lambda run: str(run.record.get("weights_sha256", ""))[:16])


def _figure_name(part: str, name: str, average: str) -> str:
    return f"{part} {formats.words(name)}" + f", {average} weights" * bool(average)


def _row(key: str, runs: Sequence[RunData], told: Callable[[RunData], str]) -> Iterator[Row]:
    values = [told(run) for run in runs]
    if any(values):
        yield Row(key, [value or ABSENT for value in values])


def _figures(run: RunData, part: str) -> dict[str, float]:
    """Return the last figures on a part of the data."""
    judging, curves = run.judging
    judged_by = run.record.get("judged_by", judging)
    told = run.record.get("final_metrics") if part == judged_by else None
    if part == "test" and told is None:
        told = run.record.get("test_metrics")
    found = {name: value for name, value in (told or {}).items() if value is not None}
    if not told and part == judging:
        # One that was killed has told its evaluations all the same.
        return _last(curves)
    return {visible(name): value for name, value in found.items()}


def _last(curves: Mapping[str, Curve]) -> dict[str, float]:
    return {visible(name): curve.values[-1] for name, curve in curves.items() if curve.values}


def _is_higher_better(run: RunData, name: str) -> bool:
    if name == run.info.get("metric"):
        return bool(run.info.get("higher_is_better"))
    return run.info.get("directions", {}).get(name, False)


def _best(values: Sequence[float | None], higher: bool) -> frozenset[int]:  # noqa: FBT001 - of the metric
    """Return which values are the best, none where all are the same."""
    known = [value for value in values if value is not None and value == value]  # noqa: PLR0124 - NaN
    if len({*known}) < 2:  # noqa: PLR2004 - to compare
        return frozenset()
    wanted = max(known) if higher else min(known)
    return frozenset(place for place, value in enumerate(values) if value == wanted)


def _best_name(run: RunData) -> str:
    """Return what the best of a run is the best of."""
    part = run.record.get("judged_by", run.judging[0])
    return visible(" ".join(["best", part, formats.words(run.info.get("metric", "metric"))]))


def _best_words(name: str, run: RunData) -> str:
    value = run.record.get("best_metric")
    if value is None or _best_name(run) != name:
        return ""
    return formats.metric(run.info.get("metric", ""), value)


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _optional(words: Callable[[float], str], value: float | None) -> str:
    return "" if value is None else words(value)


def _peak(run: RunData) -> str:
    peaks = [plugin.get("peak_bytes", 0) for plugin in run.entries]
    return formats.mib(sum(peaks)) if peaks else ""


def _faults(run: RunData) -> str:
    count = len(run.faults) + run.record.get("faults_left_out", 0)
    decided = Counter(str(fault.get("decision", "")) for fault in run.faults)
    words = ", ".join(f"{number} {decision}" for decision, number in decided.items() if decision)
    return f"{count} ({words})" if words else str(count)


# their curves


def _charts(names: Sequence[str], runs: Sequence[RunData]) -> Iterator[tuple[str, str]]:
    """Yield title and chart of each curve that runs have in common, a colour a run."""
    by_part: dict[tuple[str, str], list[Mapping[str, Curve]]] = {
        ("training", ""): [run.train for run in runs],
        ("validation", ""): [run.validation for run in runs],
        ("test", ""): [run.test if run.judging[0] == "test" else {} for run in runs],
    }
    for part, average in itertools.product(("validation", "test"), ("ema", "swa")):
        by_part[part, average] = [
            run.averaged.get((part, average), {}) if run.judging[0] == part else {} for run in runs
        ]
    keys = (f"curve{number}" for number in itertools.count())
    for (part, average), curves in by_part.items():
        for name in dict.fromkeys(itertools.chain.from_iterable(curves)):
            series = [
                Curve(run, each[name].steps, each[name].values) if name in each else Curve(run)
                for run, each in zip(names, curves, strict=True)
            ]
            if name == "lr_factor" and all(len({*one.values}) <= 1 for one in series):
                continue
            title = _figure_name(part, name, average)
            svg = line_chart(
                next(keys),
                f"{title} by step, of each run",
                series,
                smooth=part == "training",
                log="loss" in name,
                is_share=formats.is_share(name),
            )
            yield title[:1].upper() + title[1:], svg
