"""The names of readers, and how a job's options reach them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..engine.data import Data
from ..hooks.errors import DataError
from ..job.function_options import OptionError, check_options
from ..job.user_code import is_import_path, suggest_own
from .arrays import Task, arrays
from .idx import idx, mnist10k
from .image_folder import folder
from .user_data import user_data

#: Name in the job to reader; its keyword parameters are the options.
DATASETS: dict[str, Callable[..., Data]] = {
    "arrays": arrays,
    "folder": folder,
    "idx": idx,
    "mnist10k": mnist10k,
}


def check_data(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` with the reader's types; nothing is read.

    Options of a ``module:function`` are returned as they are: it is not imported yet.

    Raises:
        DataError: There is no such reader.
        OptionError: An option does not fit; it lists the problems with their paths.
    """
    if is_import_path(name):
        return dict(options)
    if name not in DATASETS:
        raise DataError(f"data '{name}' is unknown; {suggest_own(name, DATASETS)}")
    return check_options(DATASETS[name], options)


def load_data(name: str, options: Mapping[str, Any], *, base: Path, task: Task = "auto") -> Data:
    """Read the data of a job.

    Args:
        name: Key of ``DATASETS``, or ``module:function``.
        options: Keyword arguments of the reader.
        base: Folder that relative paths start from, and where modules are looked for too.
        task: What the loss is for, where neither the options nor the files say what to predict.

    Raises:
        DataError: Anything about name, options or files.
    """
    if is_import_path(name):
        return user_data(name, options, base, task)
    try:
        checked = check_data(name, options)
    except OptionError as error:
        raise DataError(f"data '{name}': {error}") from error
    located = {
        key: base / value.expanduser() if isinstance(value, Path) else value for key, value in checked.items()
    }
    if DATASETS[name] is arrays and located.get("task", "auto") == "auto":
        located["task"] = task
    return DATASETS[name](**located)
