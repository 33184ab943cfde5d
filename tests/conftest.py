"""Wheels and fresh environments, for the tests that need an installation and not the clone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = (
    "core",
    "plugins_builtin",
    "plugin_template",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
)


def call(*command, cwd, env=None, status=0):
    """Run a command to its end and return it; fail unless it exits with ``status``."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=170,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **(env or {})},
    )
    assert done.returncode == status, f"{command} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@dataclass(frozen=True)
class Environment:
    """A virtual environment with ringfence installed from its wheel.

    It finds torch and the other dependencies in the environment that runs the
    tests, through one line in a ``.pth`` file: installing them again would take
    minutes and a network. Such a line adds a folder to ``sys.path`` and runs no
    ``.pth`` file in it, so the import hook of an editable ringfence stays out, and
    what the wheel lacks is missing here.
    """

    folder: Path

    @property
    def python(self):
        return self.folder / "bin" / "python"

    @property
    def command(self):
        return self.folder / "bin" / "ringfence"

    def install(self, *wheels):
        """Install wheels with pip, from files alone."""
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python]
        call(*pip, "install", "--quiet", "--no-index", "--no-deps", *wheels, cwd=self.folder)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The folder with sdist and wheel of this clone; the wheel is built from the sdist."""
    # A copy, since building leaves folders behind that a later build would ship.
    copy = tmp_path_factory.mktemp("clone")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", ".", cwd=copy)
    return copy / "dist"


@pytest.fixture(scope="session")
def new_environment(built, tmp_path_factory):
    """Return a function that makes an environment with ringfence in it."""

    def make():
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, with_pip=False, symlinks=True)
        environment = Environment(folder)
        paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
        ours = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        Path(paths["purelib"], "dependencies.pth").write_text("\n".join(ours))
        environment.install(*built.glob("*.whl"))
        return environment

    return make
