"""A stranger's plugin: built as a wheel elsewhere, installed with pip, listed, checked and run by name."""

import json
import re
import textwrap

import pytest
from packaging.version import Version

from ringfence.compat.version_range import SPAN, window
from ringfence.hooks.series import Index
from ringfence.version import __version__

from ..conftest import call

pytestmark = pytest.mark.room

PROJECT = """
    [build-system]
    requires = ["setuptools>=77"]
    build-backend = "setuptools.build_meta"

    [project]
    name = "{name}"
    version = "0.3.0"
    description = "Scale gradients."
    requires-python = ">=3.11"
    dependencies = ["{requires}"]

    [project.entry-points."ringfence.plugins"]
    {plugin} = "{module}:Halve"

    [tool.setuptools.packages.find]
    where = ["src"]
"""

PLUGIN = '''
    """Halve the gradients."""

    from ringfence import Gradients, StepInfo, passthrough


    class Halve:
        """Multiply every gradient by ``factor``."""

        role = "gradient"
        forward = passthrough

        def __init__(self, factor: float = 0.5) -> None:
            self.factor = factor

        def backward(self, gradients: Gradients, step: StepInfo) -> Gradients:
            scaled = gradients.clone()
            for name in scaled:
                scaled[name].mul_(self.factor)
            step.log("factor", self.factor)
            return scaled
'''

JOB = """
    model: {name: mlp, hidden: [16]}
    data: mnist10k
    steps: 4
    batch_size: 32
    plugins:
      - halve: {factor: 0.25}
      - optim: {algorithm: sgd, lr: 0.01}
"""

RUNNING = Version(__version__)
#: The series before the last of invented ones, which the running core does not reach.
NOW, LATER, LAST = (f"{RUNNING.major}.{RUNNING.minor + more}" for more in range(3))
#: Distribution to the range that it declares.
DECLARED = {"acme-halve": "ringfence>=0.1", "acme-open": "ringfence", "acme-late": f"ringfence>={LATER}"}


@pytest.fixture(scope="module")
def environment(new_environment, tmp_path_factory):
    """An environment with three strangers' plugins, each built as a wheel in a folder of its own."""
    projects = []
    for name, requires in DECLARED.items():
        project = tmp_path_factory.mktemp(name)
        module = name.replace("-", "_")
        package = project / "src" / module
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("from .plugin import Halve as Halve\n")
        (package / "plugin.py").write_text(textwrap.dedent(PLUGIN))
        settings = PROJECT.format(
            name=name, module=module, plugin=name.removeprefix("acme-"), requires=requires
        )
        (project / "pyproject.toml").write_text(textwrap.dedent(settings))
        projects.append(project)
    environment = new_environment()
    environment.install_projects(projects, tmp_path_factory.mktemp("wheels"))
    return environment


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(textwrap.dedent(JOB))
    return path


def test_it_is_listed(environment, tmp_path):
    done = call(environment.command, "plugins", "list", cwd=tmp_path)

    assert re.search(r"^halve +gradient +acme-halve 0\.3\.0 +ok +factor$", done.stdout, re.MULTILINE), (
        done.stdout
    )
    assert re.search(
        r"^open +gradient +acme-open 0\.3\.0 +REFUSED E-[A-Z-]+ +factor$", done.stdout, re.MULTILINE
    ), done.stdout


def test_it_is_shown_with_its_options(environment, tmp_path):
    done = call(environment.command, "plugins", "show", "halve", cwd=tmp_path)

    assert "Multiply every gradient" in done.stdout
    assert "factor" in done.stdout
    assert "0.5" in done.stdout


def test_it_passes_the_check_that_loads_it_in_a_sandbox(environment, tmp_path):
    done = call(environment.command, "plugins", "check", "halve", cwd=tmp_path)

    assert "OK  plugin 'halve' (acme-halve 0.3.0)" in done.stdout
    known = Index.read().up_to(RUNNING)
    assert (f"this core has had {len(known)} series so far" in done.stdout) == (len(known) < SPAN)
    assert "I-REPLAYED" in done.stdout


def test_it_runs_by_name_in_a_sandbox(environment, job, tmp_path):
    call(environment.command, "train", job, "--out", tmp_path / "run", "--quiet", cwd=tmp_path)

    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (plugin,) = [item for item in record["plugins"] if item["name"] == "halve"]
    assert record["status"] == "completed"
    assert (plugin["version"], plugin["role"], plugin["isolation"]) == ("0.3.0", "gradient", "sandbox")
    assert plugin["calls"] == 4
    assert plugin["layers"]
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "halve/factor" in metrics


def test_the_host_never_holds_a_module_of_a_plugin(environment, job, tmp_path):
    code = (
        "import json, pathlib, sys\n"
        "from ringfence.job.job_file import read_job\n"
        "from ringfence.run.execute import RunOptions, execute\nfrom ringfence.run.prepare import prepare\n"
        "from ringfence.plugins.stop_request import StopRequest\n"
        "seen = set()\n"
        "def look():\n"
        "    seen.update(sys.modules)\n"  # asked between steps, so while plugins are at work
        "    return False\n"
        "stop = StopRequest()\n"
        "stop.is_made = look\n"
        "prepared = prepare(read_job('job.yaml'), pathlib.Path('.'))\n"
        "outcome = execute(prepared, pathlib.Path('run'), RunOptions(stop=stop))\n"
        "seen.update(sys.modules)\n"
        "plugins = [name for name in seen if name.startswith(('acme', 'ringfence.builtin'))]\n"
        "print(json.dumps([plugins, len(seen)]))\n"
    )

    done = call(environment.python, "-c", code, cwd=tmp_path)

    plugins, count = json.loads(done.stdout.splitlines()[-1])
    assert plugins == []
    assert count > 500  # the host did hold what training needs


def test_an_open_range_is_refused_before_anything_starts(environment, job, tmp_path):
    job.write_text(job.read_text().replace("halve: {factor: 0.25}", "open"))

    done = call(environment.command, "train", job, "--out", tmp_path / "run", cwd=tmp_path, status=2)

    assert "REFUSED  plugin 'open' (acme-open 0.3.0)" in done.stderr
    oldest = window(Index.read(), RUNNING)[0].name
    assert f"core {__version__} needs a plugin valid for {oldest}" in done.stderr
    assert "E-NO-LOWER-BOUND declares ringfence, without a lower bound" in done.stderr
    assert f"plugin author:   declare ringfence>={oldest}" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_range_that_leaves_out_the_core_is_refused(environment, job, tmp_path):
    done = call(environment.command, "plugins", "check", "late", cwd=tmp_path, status=2)

    assert "E-EXCLUDES-CORE" in done.stdout + done.stderr
    said = f"declares ringfence>={LATER}, which leaves out the running core {__version__}"
    assert said in done.stdout + done.stderr


def test_a_range_of_fewer_than_three_series_is_refused(environment, job, tmp_path):
    """Two invented series more than there are; the core plays the last of them."""
    job.write_text(job.read_text().replace("halve: {factor: 0.25}", "late"))
    code = (
        "from dataclasses import replace\n"
        "from ringfence.cli.app import exit_on_error\n"
        "from ringfence.hooks.series import Index, Series\n"
        "from ringfence.job.job_file import read_job\n"
        "from ringfence.run.load_plugins import plan\n"
        "known = Index.read()\n"
        f"names = [*known.snapshots, '{LATER}', '{LAST}']\n"
        "first = known.snapshots['0.1']\n"
        "index = Index(\n"
        "    tuple(Series(name, (f'{name}.0',)) for name in names),\n"
        "    {name: replace(first, series=name) for name in names},\n"
        ")\n"
        "with exit_on_error():\n"
        "    plan(read_job('job.yaml'), index=index, running='LAST.0')\n"
    )

    done = call(environment.python, "-c", code.replace("LAST", LAST), cwd=tmp_path, status=2)

    assert (
        f"REFUSED  plugin 'late' (acme-late 0.3.0)   core {LAST}.0 needs a plugin valid for "
        f"{NOW}, {LATER} and {LAST}" in done.stderr
    )
    assert f"declares ringfence>={LATER}   covers {LATER} and {LAST} (2 of 3); missing {NOW}" in done.stderr
    assert f"plugin author:   declare ringfence>={NOW}" in done.stderr
