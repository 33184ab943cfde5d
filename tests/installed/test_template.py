"""A new plugin of each role: built, installed from its wheel alone, found, checked, tested, trained with."""

import json
import re
import textwrap

import pytest

from ringfence.cli.project_template import Answers, Template, write_project
from ringfence.hooks.specs import ROLES

from ..conftest import call

pytestmark = pytest.mark.room

#: The tests of the kit that train, in a process of their own that takes seconds to start.
TRAINING = (
    *("test_it_trains_in_its_sandbox", "test_it_keeps_within_its_budget", "test_it_answers_in_time"),
    *("test_the_host_never_imports_it", "test_the_sandbox_changes_no_bit"),
)
JOB = """
    model: {name: mlp, hidden: [16]}
    data: {name: mnist10k, limit: 64}
    steps: 4
    batch_size: 16
    threads: 1
    plugins:
      - my-augment: {std: 0.2}
        workers: 2
      - my-gradient: {eta: 0.02}
      - my-optimizer: {lr: 0.1}
      - my-monitor: {memory: 0.5}
"""


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """Role to the folder of a project of that role."""
    made = {}
    for role in ROLES:
        made[role] = tmp_path_factory.mktemp(role) / "project"
        write_project(Template().files(Answers(f"my-{role}", role, "MIT", "Ada")), made[role])
    return made


@pytest.fixture(scope="module")
def environment(projects, new_environment, tmp_path_factory):
    """An environment with the four of them, each from its wheel."""
    environment = new_environment()
    environment.install_projects(projects.values(), tmp_path_factory.mktemp("wheels"))
    return environment


def run_tests(environment, folder, projects, *flags):
    """Run the tests of projects, as their authors do; return the last line."""
    command = [environment.python, "-P", "-m", "pytest", "-p", "no:cacheprovider", "--import-mode=importlib"]
    command.append("--assert=plain")  # the wheel's modules would be rewritten first, each time anew
    done = call(*command, "--basetemp", folder / "tmp", "-o", "addopts=", *projects, *flags, cwd=folder)
    return done.stdout.splitlines()[-1]


def test_they_are_found_and_accepted(environment, tmp_path):
    done = call(environment.command, "plugins", "list", cwd=tmp_path)

    for role in ROLES:
        row = rf"^my-{role} +{role} +ringfence-my-{role} 0\.1\.0 +ok\b"
        assert re.search(row, done.stdout, re.MULTILINE), done.stdout


def test_the_template_in_the_wheel_makes_the_same(environment, tmp_path):
    """Compiled files, which pip leaves beside what ends like Python, are none of it."""
    answers = ["--role", "augment", "--licence", "Apache-2.0", "--author", "Ada"]

    call(environment.command, "plugins", "new", "grain", *answers, "--out", "made", cwd=tmp_path)

    made = {
        str(path.relative_to(tmp_path / "made")): path.read_bytes()
        for path in (tmp_path / "made").rglob("*")
        if path.is_file()
    }
    expected = Template().files(Answers("grain", "augment", "Apache-2.0", "Ada"))
    assert made == {str(path): text.encode() for path, text in expected.items()}


def test_a_name_that_is_installed_is_refused(environment, tmp_path):
    answers = ["--role", "augment", "--licence", "MIT", "--author", "Ada"]

    done = call(environment.command, "plugins", "new", "my-augment", *answers, cwd=tmp_path, status=2)

    assert "its module ringfence_my_augment is taken, by " in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.soak
def test_options_are_typed(environment, tmp_path):
    (tmp_path / "job.yaml").write_text(textwrap.dedent(JOB))
    wrong = ["--plugin", "my-gradient:eta=-1", "--plugin", "my-augment:p=often"]

    done = call(environment.command, "train", "job.yaml", *wrong, cwd=tmp_path, status=2)

    assert "my-gradient.eta" in done.stderr
    assert "my-augment.p" in done.stderr


@pytest.mark.soak
def test_check_is_clean(environment, tmp_path):
    done = call(environment.command, "plugins", "check", "my-gradient", "--json", cwd=tmp_path)

    verdict = json.loads(done.stdout)
    assert verdict["decision"] == "accepted"
    assert {finding["rule"] for finding in verdict["findings"]} == {"I-REPLAYED"}


@pytest.mark.soak
def test_they_train_together_in_sandboxes(environment, tmp_path):
    (tmp_path / "job.yaml").write_text(textwrap.dedent(JOB))

    call(environment.command, "train", "job.yaml", "--out", "run", "--quiet", cwd=tmp_path)

    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["faults"] == []
    assert {plugin["name"]: plugin["isolation"] for plugin in record["plugins"]} == dict.fromkeys(
        (f"my-{role}" for role in ROLES), "sandbox"
    )
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    for name in ("my-augment/changed", "my-gradient/std", "my-optimizer/lr", "my-monitor/spike"):
        assert f'"{name}"' in metrics


def test_their_tests_pass(environment, projects, tmp_path):
    """All of the tests that need no run, and the runs of one; the others' take as long again."""
    others = [f"TestMy{role.title()}" for role in ROLES if role != "optimizer"]
    rest = " or ".join(f"({cls} and {test})" for cls in others for test in TRAINING)

    end = run_tests(environment, tmp_path, projects.values(), "-k", f"not ({rest})")

    # None takes trees, in batches of two sizes; three are not shared out among workers.
    assert re.search(r"\d{2} passed, 11 skipped", end), end


@pytest.mark.soak
@pytest.mark.parametrize("role", ROLES)
def test_each_project_stands_alone(environment, projects, tmp_path, role):
    """Its own tests, all of them; its check; its own job."""
    name = f"my-{role}"

    assert re.search(r"\d{2} passed, [23] skipped in", run_tests(environment, tmp_path, [projects[role]]))
    assert "OK  plugin" in call(environment.command, "plugins", "check", name, cwd=tmp_path).stdout
    call(
        *(environment.command, "train", projects[role] / "job.yaml", "--out", "run", "--quiet"),
        *("--set", "data.limit=256", "--set", "epochs=1"),
        cwd=tmp_path,
    )
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "completed"
    assert name in [plugin["name"] for plugin in record["plugins"]]
