"""Make the project of a new plugin from the template that comes with ringfence.

The template is cookiecutter's: ``cookiecutter REPOSITORY --directory plugin_template``
makes the same files, byte for byte. Here Jinja renders them, which cookiecutter itself
does and ringfence has anyway: nothing is fetched, and the template's hook, which only
checks answers, is not run, since its rules are read from where it has them too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from importlib_metadata import PackageNotFoundError, distribution
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from packaging.version import Version

from ..compat.source.module_files import file_on_path
from ..compat.version_range import first_series
from ..discovery.catalog import catalog
from ..hooks.errors import JobError
from ..hooks.series import Index, lower_bound, series_of
from ..job.problems import suggest
from ..version import __version__

_PROJECT = "{{cookiecutter.__distribution}}"
_SHARED = "templates"


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to the questions of the template.

    Attributes:
        name: Name of the plugin, as a job spells it.
        role: Key of ``ROLES``.
        licence: SPDX identifier.
        author: Who holds the copyright.
    """

    name: str
    role: str
    licence: str
    author: str


class Template:
    """The template, and the rules that it has for answers.

    Args:
        folder: Where it lies; the one that comes with ringfence by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(str(files("ringfence._template")))
        text = (self._folder / "cookiecutter.json").read_text(encoding="utf-8")
        self._settings: dict[str, Any] = json.loads(text)

    def choices(self, question: str) -> tuple[str, ...]:
        """Return what may be answered, the usual answer first; nothing if the answer is free."""
        answers = self._settings[question]
        if not isinstance(answers, list):
            return ()
        # Roles that have no folder of their own in the template come last.
        known = Index.read().snapshots.get(series_of(Version(__version__))) if question == "role" else None
        return tuple(dict.fromkeys([*answers, *(sorted(known.roles) if known else ())]))

    def prompt(self, question: str) -> str:
        """Return the question in words."""
        prompt = self._settings["__prompts__"][question]
        return str(prompt["__prompt__"] if isinstance(prompt, dict) else prompt)

    def fault(self, question: str, answer: str) -> str | None:
        """Return why ``answer`` cannot be used and what to write instead; None if it can be."""
        choices = self.choices(question)
        if choices:
            return (
                None if answer in choices else f"{question} '{answer}' is unknown; {suggest(answer, choices)}"
            )
        for asked, pattern, advice in self._settings["_checks"]:
            if asked == question and not re.fullmatch(pattern, answer):
                return f"{question} {answer!r} cannot be used; {advice}"
        return self._taken(answer) if question == "name" else None

    def files(self, answers: Answers) -> dict[PurePosixPath, str]:
        """Return the files of the project, by their paths inside it.

        Raises:
            JobError: An answer cannot be used.
        """
        faults = [self.fault(question, answer) for question, answer in asdict(answers).items()]
        if any(faults):
            raise JobError("\n".join(fault for fault in faults if fault))
        context = {"cookiecutter": self._context(answers)}
        project = self._folder / _PROJECT
        environment = _environment(project, self._folder / _SHARED)
        return {
            PurePosixPath(environment.from_string(path).render(context)): (
                environment.get_template(path).render(context)
            )
            for path in _paths(project)
        }

    def distribution(self, name: str) -> str:
        """Return what the distribution of the plugin ``name`` is called."""
        return str(self._derived({"name": name})["__distribution"])

    def _context(self, answers: Answers) -> dict[str, Any]:
        running = Version(__version__)
        oldest = lower_bound(first_series(Index.read(), running, answers.role).name, running)
        # The template states it as well, for cookiecutter, which cannot work it out.
        context = {**self._derived(asdict(answers)), "_oldest_series": {answers.role: oldest}}
        if not (self._folder / _SHARED / answers.role).is_dir():
            # Imports torch, so only where a role has no folder of its own.
            from .role_outline import role_outline  # noqa: PLC0415

            context["_role"] = role_outline(answers.role)
        return context

    def _derived(self, answers: Mapping[str, str]) -> dict[str, Any]:
        """Return answers and settings; those that begin with ``__`` are rendered, as cookiecutter does it."""
        context: dict[str, Any] = {**self._settings, **answers}
        environment = Environment(undefined=StrictUndefined)  # noqa: S701 - makes no HTML
        for key, value in self._settings.items():
            if key.startswith("__") and isinstance(value, str):
                context[key] = environment.from_string(value).render(cookiecutter=context)
        return context

    def _taken(self, name: str) -> str | None:
        derived = self._derived({"name": name})
        module = derived["__module"]
        owner = file_on_path(module)
        remedy = "write another name, or uninstall what has it"
        if owner is not None:
            return f"name '{name}' cannot be used; its module {module} is taken, by {owner}; {remedy}"
        if _is_installed(derived["__distribution"]):
            return f"name '{name}' cannot be used; {derived['__distribution']} is installed already; {remedy}"
        plugin = catalog().plugins.get(name)
        if plugin is not None:
            return f"name '{name}' cannot be used; {plugin.distribution} has a plugin '{name}'; {remedy}"
        return None


def write_project(files: Mapping[PurePosixPath, str], folder: Path) -> None:
    """Write the files of a project into a folder that is new or empty.

    Raises:
        JobError: It holds something, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise JobError(f"{folder} is a file, not a folder; name a new folder with --out")
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise JobError(f"{folder} is not empty; name a new folder with --out, or empty this one")
        for path, text in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            # "x": a file that is there by now is not ours to replace.
            with target.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
    except OSError as error:
        raise JobError(f"{folder} cannot be written: {error}; name another folder with --out") from error


def _environment(*folders: Path) -> Environment:
    # What cookiecutter sets: an unknown variable is an error, and the last line ends.
    return Environment(  # noqa: S701 - makes no HTML
        undefined=StrictUndefined, keep_trailing_newline=True, loader=FileSystemLoader(folders)
    )


def _paths(project: Path) -> Iterator[str]:
    """Yield the template's files in order; pip leaves compiled ones beside those that end like Python."""
    for path in sorted(project.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(project).as_posix()


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
