"""What Hugging Face's datasets itself has saved is read as the library reads it, and trained on."""

import shutil
from pathlib import Path

import pytest

from ..conftest import call

pytestmark = [pytest.mark.room, pytest.mark.timeout(600)]
SCRIPT = Path(__file__).parent / "save_and_train.py"


def test_what_the_library_saves_is_read_cell_by_cell_and_trained_on(framework_environment, tmp_path):
    shutil.copy(SCRIPT, tmp_path)

    done = call(
        framework_environment.python,
        SCRIPT.name,
        cwd=tmp_path,
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        timeout=500,
    )

    assert done.stdout.splitlines()[-1].startswith("5.")
