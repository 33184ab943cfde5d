"""The registry of readers: names, and how a job's options reach them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..engine.data import Data
from ..engine.preprocessing import Preprocessing
from ..hooks.errors import DataError
from ..job.function_options import OptionError, check_named
from ..job.user_code import is_import_path
from .arrays import Task, arrays
from .detection import detection
from .idx import idx, mnist10k
from .image_folder import folder
from .preparation import Parts, finish
from .segmentation import segmentation
from .split import HoldOut
from .table import table
from .text import text
from .user_data import user_data
from .webdataset import webdataset

#: Name in the job to reader; its keyword parameters are the options.
DATASETS: dict[str, Callable[..., Parts]] = {
    "arrays": arrays,
    "detection": detection,
    "folder": folder,
    "idx": idx,
    "mnist10k": mnist10k,
    "segmentation": segmentation,
    "table": table,
    "text": text,
    "webdataset": webdataset,
}


def check_data(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` with the reader's types; nothing is read; raises as ``check_named``."""
    return check_named("data", name, options, DATASETS, DataError)


def load_data(
    name: str,
    options: Mapping[str, Any],
    *,
    base: Path,
    task: Task = "auto",
    given: Callable[..., Any] | None = None,
    asked: HoldOut = HoldOut(),  # noqa: B008 - it is frozen
    known: Preprocessing | None = None,
) -> Data:
    """Read the data of a job.

    Args:
        name: Key of ``DATASETS``, or ``module:function``.
        options: Keyword arguments of the reader.
        base: Folder that relative paths start from, and where modules are looked for too.
        given: What gives them, in place of what has that name.
        task: What the loss is for, where neither the options nor the files say what to predict.
        asked: What to hold out for validation; nothing by default.
        known: What an earlier run has learned of such data, such as a vocabulary, to be used instead of
            learning it.

    Raises:
        DataError: Anything about name, options or files.
    """
    if given is not None or is_import_path(name):
        return user_data(name, options, base, task, given=given, asked=asked)
    try:
        checked = check_data(name, options)
    except OptionError as error:
        raise DataError(f"data '{name}': {error}") from error
    located = {
        key: base / value.expanduser() if isinstance(value, Path) else value for key, value in checked.items()
    }
    if "task" in (DATASETS[name].__kwdefaults__ or {}) and located.get("task", "auto") == "auto":
        located["task"] = task
    return finish(DATASETS[name](**located), asked, known)
