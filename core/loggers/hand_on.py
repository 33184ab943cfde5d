"""Hand the numbers of a run to a logger, from its folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from ..hooks.errors import JobError, shorten, visible
from ..job.job_values import flat_values, read_job
from ..plugins.number_words import counted
from ..tracking import run_folder
from ..tracking.json_lines import LongJournalError
from .follow import follow, status_of
from .logger import Logger

#: Name of a logger to the module that it needs; the extra is called like it.
LOGGERS = {"mlflow": "mlflow", "wandb": "wandb"}
_SHOWN = 40
#: How a run ended that did what its job asked for.
_GOOD = frozenset({"completed", "stopped_early"})


def open_logger(
    name: str, run: str, job: Mapping[str, str], project: str, place: Path | None, *, online: bool
) -> Logger:
    """Return a logger that a run is begun in.

    Args:
        name: One of ``LOGGERS``.
        run: What the run is called there.
        job: Its configuration there.
        project: What it belongs to there.
        place: Folder that it writes into; by default the present one.
        online: Whether it may reach its server.

    Raises:
        JobError: There is no such logger, it is not installed, or cannot be begun.
    """
    if name not in LOGGERS:
        raise JobError(f"--to {name}: there is no such logger; choose one of {', '.join(LOGGERS)}")
    if find_spec(LOGGERS[name]) is None:
        raise JobError(f"--to {name}: {name} is not installed; to have it: pip install 'ringfence[{name}]'")
    place = (place or Path()).absolute()
    if name == "wandb":
        from .wandb_logger import WandbLogger  # noqa: PLC0415 - imports wandb

        return WandbLogger(run, job, project, place, online=online)
    from .mlflow_logger import MlflowLogger  # noqa: PLC0415 - imports mlflow

    return MlflowLogger(run, job, project, place, online=online)


def hand_on(
    folder: Path, name: str, project: str, place: Path | None, *, until_end: bool, online: bool
) -> str:
    """Hand the numbers of a run to a logger, and return in a sentence where they are.

    Args:
        folder: The run's, which may come from anybody.
        name: As in ``open_logger``.
        project: Likewise.
        place: Likewise.
        until_end: As in ``follow``.
        online: As in ``open_logger``.

    Raises:
        JobError: There is no such run or logger, or the run cannot be read.
    """
    run_folder.check_run(folder)
    job = flat_values(read_job((run_folder.job_of(folder) or b"").decode(errors="replace")))
    count = 0
    with open_logger(name, visible(folder.absolute().name), job, project, place, online=online) as logger:
        try:
            for some in follow(folder, until_end=until_end):
                logger.log(some)
                count += len(some)
        except LongJournalError as error:
            raise JobError(f"{folder}: {error}; handed on before: {counted(count, 'line')}") from error
        except OSError as error:
            raise JobError(f"{folder}: cannot be read: {error.strerror or error}") from error
        status = visible(shorten(status_of(folder), _SHOWN))
        logger.end(is_good=status in _GOOD)
        lines = counted(count, "line")
        return f"{lines} of numbers, of a run that is {status.replace('_', ' ')}: {logger.where()}"
