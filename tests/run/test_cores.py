"""Cores of earlier series, built from history: what plugins are promised, tried with the real ones.

Today's template plugins run on every core that they declare, and plugins as they were written for
the first core run on it and on today's. ``cores.toml`` says which commit a series is built from.
"""

import json
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

from ringfence.cli.project_template import Answers, Template, write_project
from ringfence.compat.version_range import window
from ringfence.hooks.series import Index
from ringfence.hooks.specs import ROLES
from ringfence.version import __version__

from ..conftest import call

ROOT = Path(__file__).parents[2]
COMMITS = tomllib.loads(Path(__file__).with_name("cores.toml").read_text())
*EARLIER, CURRENT = [known.name for known in Index.read().up_to(Version(__version__))]
WINDOW = [known.name for known in window(Index.read(), Version(__version__))]
JOB = """
    model: {name: mlp, hidden: [16]}
    data: {name: mnist10k, limit: 64}
    steps: 4
    batch_size: 16
    threads: 1
    plugins:
      - PREFIX-augment: {}
      - PREFIX-gradient: {}
      - PREFIX-optimizer: {}
      - PREFIX-monitor: {}
"""
OLD_PROJECT = """
    [build-system]
    requires = ["setuptools>=77"]
    build-backend = "setuptools.build_meta"

    [project]
    name = "old-plugins"
    version = "1.0"
    dependencies = ["ringfence>=0.1"]

    [project.entry-points."ringfence.plugins"]
    old-augment = "old_plugins:Noise"
    old-gradient = "old_plugins:Sign"
    old-optimizer = "old_plugins:Descent"
    old-monitor = "old_plugins:Watch"

    [tool.setuptools]
    py-modules = ["old_plugins"]
"""
OLD_PLUGINS = """
    import torch

    from ringfence import Report, passthrough


    class Noise:
        role = "augment"
        backward = passthrough

        def forward(self, batch, step):
            noise = torch.randn(batch.inputs.shape, generator=step.generator())
            return batch.with_(inputs=batch.inputs + 0.1 * noise)


    class Sign:
        role = "gradient"
        forward = passthrough

        def backward(self, gradients, step):
            step.log("norm", float(gradients.flat().norm()))
            return {name: gradient.sign() for name, gradient in gradients.items()}


    class Descent:
        role = "optimizer"
        forward = passthrough

        def __init__(self, lr: float = 0.01):
            self.lr, self.steps = lr, 0

        def backward(self, parameters, gradients, step):
            self.steps += 1
            moved = parameters.clone()
            for name, gradient in gradients.items():
                moved[name].sub_(gradient, alpha=self.lr * step.lr_factor)
            return moved

        def state_dict(self):
            return {"steps": self.steps}

        def load_state_dict(self, state):
            self.steps = state["steps"]


    class Watch:
        role = "monitor"
        backward = passthrough

        def forward(self, loss, step):
            return Report(scalars={"loss": loss, "epoch": step.epoch})
"""
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
ALONE = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]


def of_history(series, *command):
    """Run git on the commit of a series; skip where the history does not reach that far."""
    commit = COMMITS[series]
    git = ["git", "-C", str(ROOT)]
    there = subprocess.run(
        [*git, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True, check=False, timeout=60
    )
    if there.returncode:
        pytest.skip(f"the core of {series} is commit {commit}, which this clone lacks: git fetch --unshallow")
    done = subprocess.run(
        [*git, *(part.replace("COMMIT", commit) for part in command)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_each_earlier_series_has_its_commit():
    assert list(COMMITS) == EARLIER


@pytest.mark.parametrize("series", EARLIER)
def test_that_commit_is_of_the_series(series):
    text = of_history(series, "show", "COMMIT:core/version.py").decode()

    assert f'__version__ = "{series}.' in text


@pytest.mark.parametrize("series", EARLIER)
def test_the_record_of_a_series_is_that_of_its_last_commit(series):
    """Neither a patch nor a later series changes what plugins were promised."""
    name = f"core/hooks/snapshots/{series}.json"

    assert of_history(series, "show", f"COMMIT:{name}") == (ROOT / name).read_bytes()


# From here on real cores run.


def build(projects, folder):
    """Build wheels; returns them."""
    call(*PIP, "wheel", *ALONE, "--wheel-dir", folder, *projects, cwd=folder)
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def core(new_environment, tmp_path_factory):
    """Return a function from a series to an environment with its core, made once."""
    made = {}

    def environment(series):
        if series not in made and series == CURRENT:
            made[series] = new_environment()
        elif series not in made:
            folder = tmp_path_factory.mktemp("core")
            (folder / "source").mkdir()
            archive = of_history(series, "archive", "COMMIT")
            subprocess.run(["tar", "-x", "-C", folder / "source"], input=archive, check=True, timeout=60)
            made[series] = new_environment(build([folder / "source"], folder)[0])
        return made[series]

    return environment


@pytest.fixture(scope="module")
def today(tmp_path_factory):
    """Wheels of plugins that today's template makes, one of each role."""
    folder = tmp_path_factory.mktemp("today")
    projects = [folder / role for role in ROLES]
    for role, project in zip(ROLES, projects, strict=True):
        write_project(Template().files(Answers(f"my-{role}", role, "MIT", "Ada")), project)
    return build(projects, folder)


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory):
    """A wheel of plugins as they were written when there was one series."""
    folder = tmp_path_factory.mktemp("yesterday")
    (folder / "pyproject.toml").write_text(textwrap.dedent(OLD_PROJECT))
    (folder / "old_plugins.py").write_text(textwrap.dedent(OLD_PLUGINS))
    return build([folder], folder)


def check_and_train(environment, prefix, folder):
    """Have a core judge the four plugins, and train with all of them in sandboxes."""
    (folder / "job.yaml").write_text(textwrap.dedent(JOB).replace("PREFIX", prefix))
    for role in ROLES:
        done = call(environment.command, "plugins", "check", f"{prefix}-{role}", cwd=folder)
        assert done.stdout.startswith(f"OK  plugin '{prefix}-{role}'"), done.stdout
    call(environment.command, "train", "job.yaml", "--out", "run", "--quiet", cwd=folder)
    record = json.loads((folder / "run" / "run.json").read_text())
    assert (record["status"], record.get("faults", [])) == ("completed", [])
    assert {plugin["name"]: plugin["isolation"] for plugin in record["plugins"]} == dict.fromkeys(
        (f"{prefix}-{role}" for role in ROLES), "sandbox"
    )


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("series", WINDOW)
def test_what_the_template_makes_today_runs_on_each_core_that_it_declares(core, today, tmp_path, series):
    environment = core(series)
    version = call(environment.command, "--version", cwd=tmp_path).stdout
    assert version.startswith(f"ringfence {series}.")

    environment.install(*today)

    check_and_train(environment, "my", tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("series", [EARLIER[0], *WINDOW])
def test_what_was_written_for_the_first_core_runs_on_it_and_on_the_last_three(
    core, yesterday, tmp_path, series
):
    environment = core(series)

    environment.install(*yesterday)

    check_and_train(environment, "old", tmp_path)
