"""The shell completes commands and options, and ``--help`` does not pay for it."""

import os
import subprocess
import sys

import pytest


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, **environment},
    ).stdout


@pytest.mark.parametrize(
    ("typed", "completed"), [("ringfence plug", "plugins"), ("ringfence train --res", "--resume")]
)
def test_words_are_completed(typed, completed):
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    code = "from ringfence.cli.main import main; main()"
    assert run("-c", code, _RINGFENCE_COMPLETE="complete_bash", **words).split() == [completed]


def test_help_imports_nothing_that_takes_time():
    code = (
        "import sys, contextlib\n"
        "from ringfence.cli.main import main\n"
        "sys.argv = ['ringfence', '--help']\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "print({'pydantic', 'rich', 'torch', 'numpy'} & set(sys.modules))\n"
    )
    assert run("-c", code).splitlines()[-1] == "set()"
