"""A stranger's augment and monitor for data that are dicts, with a guard around new names and without."""

import json
import textwrap

import pytest

from ..compat.newer_names import GUARDED, UNGUARDED
from ..conftest import call

pytestmark = pytest.mark.room

PROJECT = """
    [build-system]
    requires = ["setuptools>=77"]
    build-backend = "setuptools.build_meta"

    [project]
    name = "{name}"
    version = "0.3.0"
    requires-python = ">=3.11"
    dependencies = ["ringfence>=0.2"]

    [project.entry-points."ringfence.plugins"]
    {prefix}dim = "{module}:Dim"
    {prefix}spread = "{module}:Spread"

    [tool.setuptools]
    py-modules = ["{module}"]
    package-dir = {{"" = "src"}}
"""
OWN = """
    import torch


    class TwoOutputs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.numbers = torch.nn.Embedding(20, 4), torch.nn.Linear(3, 4)
            self.head = torch.nn.Linear(4, 3)

        def forward(self, ids, numbers):
            hidden = self.words(ids).mean(1) + self.numbers(numbers)
            return {"logits": self.head(hidden), "hidden": hidden}


    def samples():
        generator = torch.Generator().manual_seed(0)

        def part(count):
            ids = torch.randint(0, 20, (count, 5), generator=generator)
            numbers = torch.rand(count, 3, generator=generator)
            return {"ids": ids, "numbers": numbers}, ids.sum(1) % 3

        return part(64), part(16)
"""
JOB = """
    model: own:TwoOutputs
    data: own:samples
    steps: 6
    batch_size: 16
    threads: 1
    plugins:
      - dim:{trusted}
      - spread:{trusted}
      - optim: {{algorithm: sgd, lr: 0.01}}
"""


@pytest.fixture(scope="module")
def environment(new_environment, tmp_path_factory):
    """An environment with both wheels."""
    projects = []
    for prefix, text in {"": GUARDED, "bare-": UNGUARDED}.items():
        project = tmp_path_factory.mktemp("project")
        name = f"acme-{prefix}trees"
        module = name.replace("-", "_")
        (project / "src").mkdir()
        (project / "src" / f"{module}.py").write_text(text)
        settings = PROJECT.format(name=name, module=module, prefix=prefix)
        (project / "pyproject.toml").write_text(textwrap.dedent(settings))
        projects.append(project)
    environment = new_environment()
    environment.install_projects(projects, tmp_path_factory.mktemp("wheels"))
    return environment


@pytest.fixture
def job(tmp_path):
    (tmp_path / "own.py").write_text(textwrap.dedent(OWN))

    def write(trusted="", plugin="dim"):
        text = textwrap.dedent(JOB).format(trusted=trusted).replace("- dim", f"- {plugin}")
        (tmp_path / "job.yaml").write_text(text)
        return tmp_path / "job.yaml"

    return write


@pytest.mark.parametrize("name", ["dim", "spread"])
def test_with_a_guard_it_passes_the_check_which_trains_with_it_as_each_series(environment, tmp_path, name):
    done = call(environment.command, "plugins", "check", name, cwd=tmp_path)

    assert f"OK  plugin '{name}' (acme-trees 0.3.0)" in done.stdout
    assert "I-REPLAYED" in done.stdout


def test_with_a_guard_it_runs_on_dicts_to_the_weights_that_it_gives_without_a_sandbox(
    environment, job, tmp_path
):
    records = []
    for folder, trusted in (("sandboxed", ""), ("trusted", "\n    isolation: trusted")):
        flags = ["--out", tmp_path / folder, "--quiet"]
        call(environment.command, "train", job(trusted), *flags, cwd=tmp_path)
        records.append(json.loads((tmp_path / folder / "run.json").read_text()))

    assert [record["status"] for record in records] == ["completed"] * 2
    isolation = [{p["name"]: p["isolation"] for p in record["plugins"]} for record in records]
    assert [one["dim"] for one in isolation] == [one["spread"] for one in isolation] == ["sandbox", "trusted"]
    assert records[0]["weights_sha256"] == records[1]["weights_sha256"]
    metrics = (tmp_path / "sandboxed" / "metrics.jsonl").read_text()
    assert '"spread/inputs":2.0' in metrics
    assert '"spread/mean/1"' in metrics


def test_without_one_it_is_refused_before_anything_starts(environment, job, tmp_path):
    flags = ["--out", tmp_path / "run"]
    done = call(environment.command, "train", job(plugin="bare-dim"), *flags, cwd=tmp_path, status=2)

    line = UNGUARDED.splitlines().index("from ringfence import map_tensors, tensors_of") + 1
    assert "REFUSED  plugin 'bare-dim' (acme-bare-trees 0.3.0)" in done.stderr
    assert f"acme_bare_trees.py:{line}  ringfence has no 'map_tensors' in 0.2 and 0.3" in done.stderr
    guard = "try: from ringfence import map_tensors … except ImportError: map_tensors = None …"
    assert guard in " ".join(done.stderr.split())
    assert not (tmp_path / "run").exists()
