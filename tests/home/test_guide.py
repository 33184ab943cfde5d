"""What the page about Python shows is so."""

import sys

import pytest

from ..conftest import call
from ..docs.page import blocks

pytestmark = [pytest.mark.room, pytest.mark.timeout(600)]


def test_what_the_page_shows_runs_as_one_script(tmp_path):
    shown = [block.text for block in blocks("python.md") if block.language == "python"]
    assert len(shown) > 4
    (tmp_path / "script.py").write_text("\n".join(shown))

    done = call(sys.executable, "script.py", cwd=tmp_path, timeout=500)

    assert "completed" in done.stdout


def test_the_errors_that_it_shows_are_those_that_there_are(tmp_path):
    (shown,) = [block.text for block in blocks("python.md") if block.language == "text"]
    job = "model='cnm', data='mnist10k', epochs=1, plugins=[{'optim': {'algorithm': 'adamw', 'lrr': 1}}]"
    code = f"import ringfence\ntry: ringfence.train({job})\nexcept Exception as e: print('JobError:', e)"

    assert call(sys.executable, "-c", code, cwd=tmp_path).stdout == shown
