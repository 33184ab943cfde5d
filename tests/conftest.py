"""Wheels and fresh environments, for the tests that need an installation and not the clone."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SOURCES = (
    "bin",
    "core",
    "plugins_builtin",
    "plugin_template",
    "docs",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
)
#: The folder for what ringfence keeps of its user's runs.
STATE = pytest.StashKey()
#: Names of files that runs and children write to as they go.
LOGS = ("events.jsonl", "output", "log-*", "*.log", "stderr")


def pytest_configure(config):
    """Let SIGINT and SIGHUP end what tests start, also if a shell ignores them, for `&` and under nohup.

    What ringfence keeps of its user's runs is kept apart from the user's own, in a folder for these tests.
    """
    config.stash[STATE] = tempfile.TemporaryDirectory(prefix="ringfence-state-")
    os.environ["XDG_STATE_HOME"] = config.stash[STATE].name
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_unconfigure(config):
    """Remove the folder that ``pytest_configure`` made."""
    config.stash[STATE].cleanup()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Have what a test sets up draw the same numbers whatever was run before."""
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call():
    """Have a test draw the same numbers whatever was run or set up before."""
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Name what is kept of a test that failed, and show how the logs of its runs and children end."""
    report = yield
    if report.failed:
        folder = item.funcargs.get("tmp_path") or item.config._tmp_path_factory.getbasetemp()
        report.sections.append(("files that are kept", "\n".join(told_of(Path(folder)))))
    return report


def told_of(folder):
    """Yield a folder and the ends of the newest logs below it."""
    yield str(folder)
    found = [path for pattern in LOGS for path in folder.rglob(pattern) if path.is_file()]
    logs = [path for path in found if "site-packages" not in path.parts]
    for path in sorted(logs, key=lambda path: path.stat().st_mtime)[-4:]:
        with contextlib.suppress(OSError):
            yield f"{path}:"
            yield from path.read_text(errors="replace").splitlines()[-20:]


def call(*command, cwd, env=None, status=0, timeout=170):
    """Run a command to its end and return it; fail unless it exits with ``status``."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **(env or {})},
    )
    assert done.returncode == status, f"{command} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@dataclass(frozen=True)
class Environment:
    """A virtual environment with ringfence installed from its wheel.

    torch and the other dependencies are those of the environment that runs the
    tests, all but ringfence, as hard links: installing them again would take minutes
    and a network, and a path to them would be a folder that no sandbox may read.
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

    def install_projects(self, projects, wheels):
        """Build projects and install them, each from its wheel; ``wheels`` is an empty folder for those."""
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        flags = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", wheels]
        call(*pip, "wheel", *flags, *projects, cwd=wheels)
        self.install(*wheels.glob("*.whl"))


def copy_dependencies(source, target):
    """Link every installed package but ringfence, by whatever way it is installed."""
    ours = shutil.ignore_patterns("ringfence*", "__editable__*ringfence*")
    shutil.copytree(source, target, ignore=ours, copy_function=link_or_copy, dirs_exist_ok=True)


def link_or_copy(source, target):
    """Link a file; copy it where the file systems differ or links are not allowed."""
    if Path(target).exists():
        return  # purelib and platlib are one folder, as they mostly are
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


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
    """Return a function that makes an environment with ringfence in it, of this clone or of another wheel."""

    def make(core=None):
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, with_pip=False, symlinks=True)
        environment = Environment(folder)
        places = {"base": str(folder), "platbase": str(folder)}
        for scheme in ("purelib", "platlib"):
            copy_dependencies(sysconfig.get_path(scheme), sysconfig.get_path(scheme, vars=places))
        environment.install(core or next(built.glob("*.whl")))
        return environment

    return make


@pytest.fixture
def one_thread():
    """Have torch compute with one thread, so that sums do not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
