"""How a run ended, in the lines that are shown of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ..plugins.number_words import counted
from ..run.execute import RunOutcome
from ..tracking import run_folder
from .run_display import RunDisplay, metric_words, rate_words

_DIGITS_SHOWN = 16
_REPORTED = "report  {}"

#: Returns how the run in a folder is gone on with, as the user would write it.
HowToGoOn = Callable[[Path], str]


def outcome_lines(
    outcome: RunOutcome, display: RunDisplay, how: HowToGoOn, *, is_kept: bool = True
) -> Iterator[str]:
    """Yield how a run ended that has a result.

    Args:
        outcome: What it left.
        display: What has shown it.
        how: How a run is gone on with.
        is_kept: Whether its folder is there to stay.
    """
    result = outcome.result
    metrics = "  ".join(metric_words(result.judged_by, result.final_metrics))
    # The evaluation may be of an earlier step than the one at which the run was interrupted.
    at = f"at step {result.final_metrics_step}: " * (result.final_metrics_step not in (None, result.steps))
    yield f"{result.status.replace('_', ' ')} after {counted(result.steps, 'step')}  {at}{metrics}".rstrip()
    if result.test_metrics and result.judged_by != "test":
        yield "  ".join(metric_words("test", result.test_metrics))
    for name, parts in display.status.averaged.items():
        yield "  ".join([name, *(word for part in parts for word in metric_words(part, parts[part]))])
    if result.steps_given_up:
        given_up = counted(result.steps_given_up, "step")
        yield f"{given_up} after that given up: the next one took too long"
    for plugin in display.status.plugins:
        if plugin.usage.state == "disabled":
            yield f"plugin '{plugin.spec.name}' failed and was disabled: the run went on without it"
    speed = rate_words(result.steps_per_second)
    yield f"weights {result.weights_sha256[:_DIGITS_SHOWN]}…  {speed}".rstrip()
    if not is_kept:
        yield "nothing of it is kept; to look at what a run leaves, name a folder with --out"
        return
    yield _REPORTED.format(outcome.report)
    if result.status == "interrupted":
        yield f"continue with: {how(outcome.folder)}"


def lines_of_what_is_left(folder: Path, how: HowToGoOn) -> Iterator[str]:
    """Yield where the report is of a run that has failed, and how it goes on; its error follows."""
    if (folder / run_folder.REPORT).is_file():
        yield _REPORTED.format(folder / run_folder.REPORT)
    if run_folder.read_record(folder).get("checkpoint") is not None:
        yield f"continue with: {how(folder)}"


def line_without_last_state(ended: str, folder: Path | None, how: HowToGoOn) -> str:
    """Return how a run ended without its last state, and what there is of it."""
    done = 0 if folder is None else run_folder.steps_done(folder)
    if folder is None or not done:
        return f"{ended}; no step was kept"
    return f"{ended}; kept is step {done}, the last checkpoint. Continue with: {how(folder)}"
