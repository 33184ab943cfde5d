"""The tutorials, run as they are written, in a fresh folder and a fresh environment."""

import os
import shutil
import sys
import sysconfig
import venv

import pytest

from ..conftest import ROOT, SOURCES, call, copy_dependencies
from ..docs.page import blocks, hold, play

pytestmark = pytest.mark.room

#: What a user's checkout has beside what is built.
BESIDE = ("constraints.txt", "examples")
#: A tutorial takes one to three minutes where nothing else runs.
TIMEOUT_S = 900


def environment_of(home, first):
    """Return the environment of a user with nothing set up, whose commands are found in ``first``."""
    return {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{first}:/usr/bin:/bin",
        # torch and the rest are there already, so that nothing has to be fetched to install ringfence.
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip takes the value of this one for that of the opposite
        "PIP_NO_INDEX": "1",
        **{
            name: os.environ[name] for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ
        },
    }


@pytest.fixture
def checkout(tmp_path):
    """A copy of this clone, with an environment that has every package but ringfence."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in (*SOURCES, *BESIDE):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    venv.create(folder / ".venv", with_pip=False, symlinks=True)
    places = {"base": str(folder / ".venv"), "platbase": str(folder / ".venv")}
    for scheme in ("purelib", "platlib"):
        copy_dependencies(sysconfig.get_path(scheme), sysconfig.get_path(scheme, vars=places))
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "python3").symlink_to(sys._base_executable)
    return folder


def test_the_first_run_once_it_is_installed(new_environment, tmp_path):
    """Training and what it leaves; the plugin that is made, broken and mended takes three runs more."""
    page = "tutorial.md"
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    environment = environment_of(tmp_path, new_environment().folder / "bin")
    parts = [block for block in blocks(page) if block.section in {"Train", "Look", "Your own photos"}]

    assert len(parts) == 5
    hold(page, play(parts, tmp_path, environment, TIMEOUT_S))


def test_photos_become_predictions_in_python_once_it_is_installed(new_environment, tmp_path):
    page = "tutorial-python.md"
    environment = environment_of(tmp_path, new_environment().folder / "bin")
    parts = [block for block in blocks(page) if block.section != "Install"]

    assert len(parts) == 9
    hold(page, play(parts, tmp_path, environment, TIMEOUT_S))


@pytest.mark.soak
@pytest.mark.timeout(TIMEOUT_S + 60)
def test_the_first_run(checkout, tmp_path):
    page = "tutorial.md"
    environment = environment_of(tmp_path / "home", tmp_path / "bin")
    (tmp_path / "home").mkdir()

    hold(page, play(blocks(page), checkout, environment, TIMEOUT_S))


@pytest.mark.soak
@pytest.mark.timeout(TIMEOUT_S + 60)
def test_the_first_plugin(new_environment, tmp_path):
    page = "tutorial-plugin.md"
    environment = environment_of(tmp_path, new_environment().folder / "bin")

    hold(page, play(blocks(page), tmp_path, environment, TIMEOUT_S))


def test_a_new_job_trains_and_passes_its_own_test(new_environment, tmp_path):
    installed = new_environment()
    environment = environment_of(tmp_path, installed.folder / "bin")
    call(installed.command, "new", "shapes", cwd=tmp_path, env=environment)

    done = call(installed.python, "-m", "pytest", "-q", cwd=tmp_path / "shapes", env=environment)

    assert "2 passed" in done.stdout
