"""The pages on the job file and the command line say what is so."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from ringfence.builtin.optim.plugin import Optim
from ringfence.cli.app import app
from ringfence.datasets.dataset_registry import DATASETS
from ringfence.discovery.catalog import catalog
from ringfence.engine.losses import LOSSES
from ringfence.engine.metrics import METRICS
from ringfence.engine.schedules import SCHEDULES
from ringfence.job.job_file import PLUGIN_SETTINGS, Job, check_job, read_job
from ringfence.job.yaml_document import parse_yaml
from ringfence.models.model_registry import MODELS
from ringfence.run.ingredients import check_names
from ringfence.run.load_plugins import plan

DOCS = Path(__file__).parents[2] / "docs"
JOB = (DOCS / "job.md").read_text()
CLI = (DOCS / "cli.md").read_text()


def test_the_settings_of_a_plugin_are_those_that_exist():
    named = re.search(r"The settings are (.+?);", JOB, re.DOTALL)[1]
    assert re.findall(r"`(\w+)`", named) == list(PLUGIN_SETTINGS)


@pytest.mark.parametrize(
    ("section", "known"), [("loss", LOSSES), ("metric", METRICS), ("schedule", SCHEDULES)]
)
def test_names_of_choices_are_those_that_exist(section, known):
    table = JOB.partition(f"### {section}\n")[2].partition("\n#")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(known)


@pytest.mark.parametrize(
    ("key", "known"),
    [("model", MODELS), ("data", DATASETS), ("loss", LOSSES), ("metric", METRICS), ("schedule", SCHEDULES)],
)
def test_description_of_a_choice_names_all(key, known):
    named = set(re.findall(r"`(\w+)`", Job.model_fields[key].description))
    assert named == set(known)


def test_example_is_a_job():
    (example,) = re.findall(r"```yaml\n(model:.*?)```", JOB, re.DOTALL)
    job = check_job(parse_yaml(example, "example")).job
    assert [plugin.name for plugin in job.plugins] == ["augment", "gradclip", "optim", "monitor"]


def flags_of_the_page():
    table = JOB.partition("\n## Flags\n")[2].partition("\n## ")[0]
    return [
        shlex.split(f"{flag} {text}") if "'" in text else [flag, text]
        for flag, text in re.findall(r"^\| `(--set|--plugin) ([^`]+)`", table, re.MULTILINE)
    ]


@pytest.mark.parametrize(("flag", "text"), flags_of_the_page())
def test_each_flag_of_the_page_fits_its_example(tmp_path, flag, text):
    path = tmp_path / "job.yaml"
    path.write_text(re.findall(r"```yaml\n(model:.*?)```", JOB, re.DOTALL)[0])
    given = {"sets": [text]} if flag == "--set" else {"plugins": [text]}
    job_file = read_job(path, **given)
    assert check_names(job_file) == []
    optim = next(item for item in plan(job_file, catalog()) if item.spec.name == "optim")
    # What only the plugin can judge: the arguments of the algorithm.
    Optim(**optim.spec.options)


def test_the_page_has_examples_of_both_flags():
    assert {flag for flag, _ in flags_of_the_page()} == {"--set", "--plugin"}
    assert len(flags_of_the_page()) >= 6


def test_every_command_and_option_is_described():
    command = typer.main.get_command(app)
    words = set(_names(command))
    assert words >= {"train", "plugins", "doctor", "report", "--resume", "--version"}
    assert [word for word in words if word not in CLI] == []


def _names(command):
    for option in command.params:
        yield from (name for name in option.opts if name.startswith("--") and name != "--help")
    for name, below in getattr(command, "commands", {}).items():
        yield name
        yield from _names(below)
