"""A run that is cut down does one step of everything, or learns a few samples, and is no whole one."""

import json

import pytest
import torch

from ringfence.api.train_request import TrainRequest, nothing_to_do
from ringfence.hooks.errors import JobError
from ringfence.job.job_file import check_job
from ringfence.job.yaml_document import parse_yaml
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare
from ringfence.run.reduced_run import Reduction

JOB = """\
model: {name: mlp, hidden: [32]}
data: {name: mnist10k, limit: 600}
epochs: 4
batch_size: 50
grad_accum_steps: 2
eval_batch_size: 40
schedule: {name: cosine, warmup_steps: 5}
early_stopping: {patience: 1}
averaging: {ema: {every: 7}, swa: {}}
threads: 1
plugins:
  - augment: {ops: [{flip: {}}]}
    isolation: trusted
  - monitor: {bins: 8}
    every: 20
    isolation: trusted
  - optim: {algorithm: adamw, lr: 1e-2}
    isolation: trusted
"""


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def prepared(tmp_path, reduction, job=JOB):
    return prepare(check_job(parse_yaml(job, "job.yaml")), tmp_path, reduction=reduction)


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_one_step_of_everything(tmp_path):
    ready = prepared(tmp_path, Reduction())
    data = ready.setup.data
    assert {len(part) for part in data.parts().values()} == {100, 40}
    assert (ready.setup.steps_total, ready.setup.plan.steps_per_epoch) == (1, 1)
    outcome = execute(ready, tmp_path / "run", RunOptions(report=False))
    record = json.loads((outcome.folder / "run.json").read_text())
    assert (record["status"], record["steps"], record["reduction"]) == (
        *("completed", 1),
        {"kind": "fast_dev_run"},
    )
    # Each plugin was called, the monitor that is due every 20 steps among them.
    assert all(plugin["calls"] for plugin in record["plugins"])
    assert len(record["plugins"]) == 3
    assert record["averaged_metrics"].keys() == {"ema", "swa"}
    kinds = {line["kind"] for line in lines(outcome.folder, "metrics.jsonl")}
    assert {"train", "plugin", *data.parts()} <= kinds
    assert (outcome.folder / "checkpoints" / "step-00000001").is_dir()
    told = lines(outcome.folder, "events.jsonl")
    assert any(event["message"].startswith("--fast-dev-run: one step, with each plugin") for event in told)
    # And no whole run goes on from it.
    with pytest.raises(JobError, match=r"cut down to try its job out \(fast_dev_run\)"):
        nothing_to_do(TrainRequest(resume=outcome.folder))


def test_faults_of_the_whole_job_are_told_all_the_same(tmp_path):
    with pytest.raises(JobError, match=r"job.yaml:7:11: schedule: .*warmup_steps is 900, but the run has 2"):
        prepared(tmp_path, Reduction(), JOB.replace("warmup_steps: 5", "warmup_steps: 900"))


def test_a_few_samples_are_learned_by_heart(tmp_path):
    ready = prepared(tmp_path, Reduction(overfit=12))
    data, whole = ready.setup.data, prepared(tmp_path, None)
    assert data.train is data.validation
    assert data.test is None
    assert len(data.train) == 12
    assert len(data.train.samples_targets().unique()) > 3, "the first of one class would teach nothing"
    # As many steps as the job, which has more samples for them.
    assert ready.setup.steps_total == whole.setup.steps_total
    assert ready.setup.config.eval_every == whole.setup.plan.steps_per_epoch
    outcome = execute(ready, tmp_path / "run", RunOptions(report=False))
    record = json.loads((outcome.folder / "run.json").read_text())
    assert record["reduction"] == {"kind": "overfit", "samples": 12}
    assert [plugin["name"] for plugin in record["plugins"]] == ["monitor", "optim"]
    assert record["final_metrics"]["accuracy"] == 1.0
    told = [event["message"] for event in lines(outcome.folder, "events.jsonl")]
    assert any("trained on 12 of" in message and "plugin 'augment'" in message for message in told)


def test_a_model_that_cannot_learn_is_found_out(tmp_path):
    ready = prepared(tmp_path, Reduction(overfit=12), JOB.replace("lr: 1e-2", "lr: 1e-9"))
    outcome = execute(ready, tmp_path / "run", RunOptions(report=False))
    assert outcome.result.final_metrics["accuracy"] < 1.0


def test_more_samples_than_there_are_is_an_error(tmp_path):
    with pytest.raises(JobError, match=r"--overfit 6000: there are \d+ training samples; ask for fewer"):
        prepared(tmp_path, Reduction(overfit=6000))
