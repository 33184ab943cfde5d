"""The plugins in ``examples/plugins``: built, installed, found, checked, tested and trained with."""

import json
import os
import re
import shutil
import sys
import tarfile
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest

from ringfence.cli.project_template import Answers, Template
from ringfence.job.job_file import read_job

from ..conftest import call

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "plugins"
PAGE = (ROOT / "docs" / "example-plugins.md").read_text(encoding="utf-8")
#: Name to role.
PLUGINS = {"gradient-centralisation": "gradient", "label-noise": "monitor", "pytorch-optimizer": "optimizer"}
#: What an author leaves as ``plugins new`` made it.
AS_MADE = (
    *(".github/workflows/publish.yml", ".github/workflows/test.yml"),
    *(".gitignore", "CHANGELOG.md", "LICENSE"),
)
MADE_IN_TESTS = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist", "runs", ".pytest_cache")
JOB = """
    model: {name: cnn, width: 4}
    data: {name: mnist10k, limit: 64}
    validation_fraction: 0
    steps: 4
    batch_size: 16
    snapshot_every: 1
    threads: 1
    plugins:
      - gradient-centralisation: {conv_only: true}
      - pytorch-optimizer: {algorithm: lion, lr: 0.001}
      - label-noise: {report_every: 2, share: 0.1, folder: found}
        write: [found]
"""
JOBS = sorted(FOLDER.glob("*/*.yaml"))
#: File of tests to the plugin whose it is.
TESTS = {f"{path.parents[1].name}/{path.name}": path for path in sorted(FOLDER.glob("*/tests/test_*.py"))}


def module(name):
    return f"ringfence_{name.replace('-', '_')}"


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """Name to a copy of the project, as building leaves folders behind."""
    folder = tmp_path_factory.mktemp("projects")
    for name in PLUGINS:
        shutil.copytree(FOLDER / name, folder / name, ignore=MADE_IN_TESTS)
    return {name: folder / name for name in PLUGINS}


@pytest.fixture(scope="module")
def environment(projects, new_environment, tmp_path_factory):
    """An environment with the three of them, each from its wheel."""
    environment = new_environment()
    environment.install_projects(projects.values(), tmp_path_factory.mktemp("wheels"))
    return environment


# as text


def test_every_folder_is_known_here_and_described():
    assert {path.name for path in FOLDER.iterdir()} == set(PLUGINS)
    for name in PLUGINS:
        assert f"examples/plugins/{name}" in PAGE


@pytest.mark.parametrize("name", PLUGINS)
def test_it_is_what_the_template_makes_but_for_what_an_author_writes(name):
    answers = Answers(name, PLUGINS[name], "Apache-2.0", "The ringfence authors")
    made = {str(path): text for path, text in Template().files(answers).items()}
    project = FOLDER / name
    files = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}

    assert made.keys() <= files
    for path in AS_MADE:
        assert (project / path).read_text(encoding="utf-8") == made[path], path
    own = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    new = tomllib.loads(made["pyproject.toml"])
    assert set(own["project"].pop("dependencies")) >= set(new["project"].pop("dependencies"))
    own["project"].pop("description")
    new["project"].pop("description")
    assert own == new


@pytest.mark.parametrize("path", JOBS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_its_jobs_are_jobs_that_use_it(path):
    assert path.parent.name in [plugin.name for plugin in read_job(path).job.plugins]


# installed


@pytest.mark.room
def test_they_are_found_by_their_entry_points(environment, tmp_path):
    done = call(environment.command, "plugins", "list", cwd=tmp_path)

    for name, role in PLUGINS.items():
        needs = " +write" if name == "label-noise" else ""
        row = rf"^{name} +{role} +ringfence-{name} 0\.1\.0 +ok +.*\w{needs}$"
        assert re.search(row, done.stdout, re.MULTILINE), done.stdout


@pytest.mark.room
@pytest.mark.parametrize("name", PLUGINS)
def test_they_are_shown_with_their_options(environment, tmp_path, name):
    shown = json.loads(call(environment.command, "plugins", "show", name, "--json", cwd=tmp_path).stdout)

    assert shown["entry_point"].startswith(f"{module(name)}:")
    assert shown["check"]["decision"] == "accepted"
    assert all(option["type"] for option in shown["options"])
    readme = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    table = readme.partition("| option | type | default | meaning |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [option["name"] for option in shown["options"]]


@pytest.mark.room
def test_they_train_together_in_sandboxes(environment, tmp_path):
    (tmp_path / "job.yaml").write_text(textwrap.dedent(JOB))
    (tmp_path / "found").mkdir()

    call(environment.command, "train", "job.yaml", "--out", "run", "--quiet", cwd=tmp_path)

    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["faults"] == []
    isolation = {plugin["name"]: plugin["isolation"] for plugin in record["plugins"]}
    assert isolation == dict.fromkeys(PLUGINS, "sandbox")
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    for key in ("gradient-centralisation/removed", "pytorch-optimizer/lr", "label-noise/disagree"):
        assert f'"{key}"' in metrics
    assert list((tmp_path / "run" / "reports" / "label-noise").glob("*suspects*.png"))
    # A tenth of 64 samples, and the line of names.
    assert len((tmp_path / "found" / "suspects.csv").read_text().splitlines()) == 8


# all of it


@pytest.mark.soak
@pytest.mark.parametrize("name", PLUGINS)
def test_check_loads_it_and_finds_nothing(environment, tmp_path, name):
    verdict = json.loads(call(environment.command, "plugins", "check", name, "--json", cwd=tmp_path).stdout)

    assert verdict["decision"] == "accepted"
    rules = {finding["rule"] for finding in verdict["findings"]}
    # An optimizer of a hundred is none until a job names it.
    loaded = "I-NOT-LOADED" if name == "pytorch-optimizer" else "I-REPLAYED"
    assert rules - {"I-BOOTSTRAP"} == {loaded}


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", TESTS)
def test_its_own_tests_pass(environment, projects, tmp_path, file):
    name, _, test = file.partition("/")
    command = [environment.python, "-P", "-m", "pytest", "-p", "no:cacheprovider", "--assert=plain"]

    done = call(*command, "--basetemp", tmp_path / "tmp", "-rA", f"tests/{test}", cwd=projects[name])

    assert re.search(r"^=* ?\d+ passed(, \d+ skipped)? in", done.stdout.splitlines()[-1]), done.stdout
    print("\n".join(line for line in done.stdout.splitlines() if "suspects" in line))


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", JOBS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_its_jobs_run(environment, projects, tmp_path, path):
    name = path.parent.name
    (projects[name] / "suspects").mkdir(exist_ok=True)

    call(environment.command, "train", projects[name] / path.name, "--out", "run", "--quiet", cwd=tmp_path)

    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["faults"] == []
    # What a job of minutes has to reach with digits, whatever watches it.
    assert record["best_metric"] > 0.8


@pytest.mark.soak
@pytest.mark.parametrize("name", PLUGINS)
def test_build_makes_an_sdist_and_a_wheel_that_are_whole(projects, tmp_path, name):
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, ".", cwd=projects[name])

    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    sources = (FOLDER / name / "src").rglob("*")
    modules = (path for path in sources if path.suffix in {".py", ".typed"})
    expected = {path.relative_to(FOLDER / name / "src").as_posix() for path in modules}
    assert {path for path in names if ".dist-info/" not in path} == expected
    assert any(path.endswith("licenses/LICENSE") for path in names)
    with tarfile.open(sdist) as archive:
        inside = {path.partition("/")[2] for path in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "tests/test_plugin.py"} <= inside


@pytest.mark.soak
@pytest.mark.parametrize("name", PLUGINS)
def test_it_is_as_typed_as_ringfence(tmp_path, name):
    project = FOLDER / name
    call(
        *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent"),
        *("--cache-dir", tmp_path, project / "src", project / "tests"),
        cwd=ROOT,
        env={"MYPYPATH": os.pathsep.join(map(str, (ROOT / ".types", project / "src", project)))},
    )
