"""The pages and the schema that are made from the code are fresh, and say what is so."""

import inspect
import json
import re
import shutil
import subprocess
import sys

import pytest
import typer
from jsonschema import Draft202012Validator

import ringfence
from ringfence.cli.app import app
from ringfence.hooks import specs
from ringfence.hooks.errors import JobError
from ringfence.job.job_file import Job, PluginJob, check_job
from ringfence.job.yaml_document import parse_yaml

from .page import DOCS, blocks

ROOT = DOCS.parent
TOOL = ROOT / "tools" / "reference"
MADE = (
    "docs/reference/hooks.md",
    "docs/reference/job.md",
    "docs/reference/cli.md",
    "docs/reference/python.md",
    "core/job/job.schema.json",
    "docs/assets/house.svg",
)
SCHEMA = json.loads((ROOT / "core" / "job" / "job.schema.json").read_text())
SMALL = "model: cnn\ndata: mnist10k\nepochs: 1\n"


def tool(*arguments):
    command = [sys.executable, TOOL, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)


def page(name):
    return (DOCS / "reference" / f"{name}.md").read_text()


def test_what_is_made_from_the_code_is_fresh():
    done = tool("--check")

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.room
def test_a_stale_page_is_named_and_made_anew(tmp_path):
    for name in MADE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    cli = tmp_path / "docs/reference/cli.md"
    cli.write_text(cli.read_text().replace("--resume", "--continue"))

    before = tool("--check", "--root", tmp_path)
    written = tool("--root", tmp_path)

    assert (before.returncode, before.stderr) == (
        1,
        "docs/reference/cli.md is stale; run: python tools/reference\n",
    )
    assert written.returncode == 0, written.stderr
    assert [(tmp_path / name).read_text() for name in MADE] == [(ROOT / name).read_text() for name in MADE]


def test_every_hook_is_there_in_firing_order():
    names = [hook.__name__.replace("_", ".") for hook in specs.HOOKS]

    assert re.findall(r"^## (\w+\.\w+)$", page("hooks"), re.MULTILINE) == names


@pytest.mark.parametrize("hook", specs.HOOKS, ids=lambda hook: hook.__name__)
def test_a_hook_has_its_arguments_what_it_returns_and_what_a_fault_does(hook):
    name = hook.__name__.replace("_", ".")
    section = page("hooks").partition(f"## {name}\n")[2].partition("\n## ")[0]
    arguments = [each for each in hook.__annotations__ if each != "return"]

    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \| (\d+\.\d+|the next) \|$", section, re.MULTILINE)
    assert [row[0] for row in rows] == arguments
    assert "**May return** " in section
    assert f"means `{specs.ROLES[name.partition('.')[0]].on_failure}`" in section


def test_every_key_is_there():
    text = page("job")
    keys = re.findall(r"^\| `(\w+)` \|", text.partition("## Keys")[2].partition("\n## ")[0], re.MULTILINE)
    settings = text.partition("## Settings of a plugin")[2].partition("\n## ")[0]

    assert keys == list(Job.model_fields)
    assert re.findall(r"^\| `(\w+)` \|", settings, re.MULTILINE) == [
        name for name in PluginJob.model_fields if name not in {"name", "options"}
    ]


def test_every_function_and_argument_for_programs_is_there():
    text = page("python")
    for name in ("train", "open_run", "load", "evaluate", "predict", "plugin_host"):
        section = text.partition(f"### {name}\n")[2].partition("\n### ")[0]
        arguments = list(inspect.signature(getattr(ringfence, name)).parameters)

        assert [each for each in arguments if f"| `{each}` |" not in section] == []
    told = [name for name in vars(ringfence.Run) if not name.startswith("_")]
    assert [name for name in told if f"| `{name}" not in text] == []


def test_every_command_and_option_is_there():
    def names(command, above):
        for option in command.params:
            yield from (f"`{word}" for word in option.opts if word.startswith("--") and word != "--help")
        for word, below in getattr(command, "commands", {}).items():
            if not hasattr(below, "commands"):
                yield f"## {above} {word}"
            yield from names(below, f"{above} {word}")

    found = list(names(typer.main.get_command(app), "ringfence"))

    assert {"## ringfence train", "## ringfence plugins list", "`--resume"} <= set(found)
    assert [name for name in found if name not in page("cli")] == []


# the schema of jobs


def faults(text):
    """Return what an editor that reads the schema would say."""
    return [
        fault.message for fault in Draft202012Validator(SCHEMA).iter_errors(parse_yaml(text, "job").value)
    ]


def refused(text):
    try:
        check_job(parse_yaml(text, "job"))
    except JobError:
        return True
    return False


def test_it_is_a_schema_that_tells_of_every_key():
    Draft202012Validator.check_schema(SCHEMA)

    assert list(SCHEMA["properties"]) == list(Job.model_fields)
    assert [key for key, part in SCHEMA["properties"].items() if not part.get("description")] == []


def test_the_command_prints_it():
    done = subprocess.run(
        [sys.executable, "-m", "ringfence", "schema"], capture_output=True, text=True, check=True, timeout=60
    )

    assert json.loads(done.stdout) == SCHEMA


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_it_admits_the_examples(path):
    assert faults(path.read_text()) == []


def test_it_admits_every_job_of_the_documentation():
    jobs = [
        block.text
        for path in sorted(DOCS.rglob("*.md"))
        for block in blocks(path.relative_to(DOCS))
        if block.language == "yaml" and re.search(r"^model:.*\ndata:", block.text, re.MULTILINE)
    ]

    assert len(jobs) >= 3
    assert [job for job in jobs if faults(job)] == []


@pytest.mark.parametrize(
    "text",
    [
        f"{SMALL}plugins: [monitor, {{optim: {{algorithm: adamw}}}}, {{acme: {{x: 1}}, workers: 2}}]\n",
        f"{SMALL}plugins:\n  - monitor:\n    every: 3\n  - acme:\n",
        f"{SMALL}steps: null\nloss: {{name: cross_entropy, label_smoothing: 0.1}}\nschedule: cosine\n",
        "model: {name: 'mynet:Net', width: 16}\ndata: 'mydata:load'\nsteps: 5\n",
        "model: {name: mlp, hidden: [8]}\ndata: {name: idx, path: a}\nsteps: 5\nmemory_fraction: 0.1\n",
    ],
)
def test_it_admits_what_is_a_job(text):
    assert faults(text) == []
    assert not refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "model: cnn\ndata: mnist10k\n",
        f"{SMALL}steps: 5\n",
        "model: cnn\nepochs: 1\n",
        f"{SMALL}batch_sise: 3\n",
        f"{SMALL}batch_size: '64'\n",
        f"{SMALL}batch_size: 0\n",
        f"{SMALL}memory_fraction: 0.2\n",
        f"{SMALL}device: gpu\n",
        f"{SMALL}early_stopping: {{min_delta: 0.1}}\n",
        f"{SMALL}plugins: {{optim: {{}}}}\n",
        f"{SMALL}plugins: [{{workers: 2}}]\n",
        f"{SMALL}plugins: [{{acme: 3}}]\n",
        f"{SMALL}plugins: [{{acme: {{}}, workers: 0}}]\n",
        f"{SMALL}plugins: [{{acme: {{}}, on_failure: ignore}}]\n",
    ],
)
def test_it_refuses_what_ringfence_refuses(text):
    assert faults(text)
    assert refused(text)


@pytest.mark.parametrize(
    "text",
    [
        f"{SMALL}loss: cross_entropie\n",
        f"{SMALL}metric: preciseness\n",
        f"{SMALL}schedule: {{name: cosine, warmup: 3}}\n",
        f"{SMALL}schedule: step\n",
        SMALL.replace("cnn", "{name: cnn, width: 0}"),
        SMALL.replace("cnn", "cnm"),
        SMALL.replace("mnist10k", "folder"),
        f"{SMALL}plugins: [{{gradclip: {{max_norm: -1}}}}]\n",
        f"{SMALL}plugins: [{{gradclip: {{max_nrom: 1}}}}]\n",
        f"{SMALL}plugins: [{{optim: {{lr: 0.1}}}}]\n",
    ],
)
def test_it_refuses_what_is_found_only_as_a_job_starts(text):
    assert faults(text)
    assert not refused(text)
