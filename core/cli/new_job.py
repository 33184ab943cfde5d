"""What ``ringfence new`` makes: a folder with a job, a model, a function that reads data, and a test."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path, PurePosixPath

from jinja2 import Environment, StrictUndefined

from ..hooks.errors import JobError
from ..tracking.run_folder import quoted
from .project_template import write_project

_SUFFIX = ".jinja"
#: As a file, so that it is there in a wheel too.
_RENAMED = {"gitignore": ".gitignore"}
#: A name for people and folders, which also goes into files as it is.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


def make_job(name: str, out: Path | None) -> list[str]:
    """Make the folder of a new job, which trains as it is; return what to do next, in lines.

    Args:
        name: What it is called.
        out: Its folder; by default one of its name, here.

    Raises:
        JobError: The name cannot be used, or the folder cannot.
    """
    if not _NAME.fullmatch(name):
        raise JobError(
            f"NAME {name!r} cannot be used; write at most 64 letters, digits, spaces and . _ -, "
            "of which the first is a letter or a digit"
        )
    folder = Path(name) if out is None else out
    write_project(_files(name), folder)
    return [
        f"made {folder}: a job that trains as it is; next:",
        f"  cd {quoted(folder)}",
        "  ringfence train job.yaml",
        "  python -m pytest",
        "then put your own into data.py, model.py and job.yaml",
    ]


def _files(name: str) -> dict[PurePosixPath, str]:
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701 - makes no HTML
    schema = files("ringfence.job").joinpath("job.schema.json").read_text(encoding="utf-8")
    made = {PurePosixPath("job.schema.json"): schema}
    for source in sorted(files("ringfence.cli").joinpath("starter").iterdir(), key=lambda file: file.name):
        if source.name.endswith(_SUFFIX):
            path = source.name.removesuffix(_SUFFIX)
            text = environment.from_string(source.read_text(encoding="utf-8")).render(name=name)
            made[PurePosixPath(_RENAMED.get(path, path))] = text
    return made
