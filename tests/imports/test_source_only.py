"""Code that was compiled by nobody knows whom is not run in place of the source that it lies beside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..forged_bytecode import forge

IMPORT = "import sys; sys.path.insert(0, sys.argv[1]); import victim; print(victim.CODE)"
FROM_SOURCE = "from ringfence.imports.source_only import import_from_source as f; f();"


@pytest.fixture
def imported(tmp_path):
    """Return what a new process gets of a module beside which others have put compiled code."""

    def imported(kind, before=""):
        source = tmp_path / "victim.py"
        source.write_text("CODE = 'source'\n")
        forge(source, "CODE = 'forged'", kind=kind)
        command = [sys.executable, "-c", before + IMPORT, tmp_path]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip()

    return imported


@pytest.mark.parametrize("kind", ["timestamp", "unchecked"])
def test_compiled_code_beside_a_module_is_run_in_place_of_it_only_without(imported, kind):
    assert imported(kind) == "forged"
    assert imported(kind, FROM_SOURCE) == "source"


def test_nothing_is_left_of_what_was_compiled(tmp_path):
    (tmp_path / "victim.py").write_text("CODE = 'source'\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for before, left in ((FROM_SOURCE, False), ("", True)):
        command = [sys.executable, "-c", before + IMPORT, tmp_path]
        subprocess.run(command, capture_output=True, check=True, timeout=60, env=environment)
        assert Path(tmp_path, "__pycache__").exists() == left
