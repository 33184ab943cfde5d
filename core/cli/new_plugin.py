"""What ``ringfence plugins new`` asks and makes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import typer

from ..hooks.errors import JobError
from .project_template import Answers, Template, write_project


def make_project(given: Mapping[str, str | None], out: Path | None) -> list[str]:
    """Make the project of a new plugin; return what to do next, in lines.

    Args:
        given: Answers by question; what is None is asked for if there is somebody to ask.
        out: Folder of the project; by default one of its name, here.

    Raises:
        JobError: An answer is missing or cannot be used, or the folder cannot.
    """
    template = Template()
    _check(template, given)
    answers = Answers(**{question: _answer(template, question, given[question]) for question in given})
    distribution = template.distribution(answers.name)
    folder = Path(distribution) if out is None else out
    write_project(template.files(answers), folder)
    return [
        f"made {folder}: the project {distribution}, {_a(answers.role)} plugin that works; next:",
        f"  cd {folder}",
        "  python -m pip install -e '.[test]'",
        "  python -m pytest",
        f"  ringfence plugins check {answers.name}",
        "  ringfence train job.yaml",
    ]


def _check(template: Template, given: Mapping[str, str | None]) -> None:
    """Tell of every answer that is wrong or missing at once, before anything is asked."""
    faults = []
    for question, answer in given.items():
        if answer is not None:
            faults.append(template.fault(question, answer))
        elif not sys.stdin.isatty():
            faults.append(f"{_flag(question)} is missing; {_expectation(template, question)}")
    if any(faults):
        raise JobError("\n".join(fault for fault in faults if fault))


def _answer(template: Template, question: str, given: str | None) -> str:
    if given is not None:
        return given
    choices = template.choices(question)
    words = template.prompt(question) + (f" ({', '.join(choices)})" if choices else "")

    def checked(text: str) -> str:
        fault = template.fault(question, text.strip())
        if fault is not None:
            raise typer.BadParameter(fault)  # it is shown, and the question asked again
        return text.strip()

    return str(typer.prompt(words, default=choices[0] if choices else None, value_proc=checked))


def _a(role: str) -> str:
    return f"{'an' if role[0] in 'aeiou' else 'a'} {role}"


def _flag(question: str) -> str:
    return "NAME" if question == "name" else f"--{question}"


def _expectation(template: Template, question: str) -> str:
    choices = template.choices(question)
    return f"write one of {', '.join(choices)}" if choices else f"write it: {template.prompt(question)}"
