"""A job's averages are in the folder of its run, in its record and on screen, each under its own name."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ringfence.api.endings import outcome_lines
from ringfence.api.run_display import PlainView, RunDisplay
from ringfence.engine.evaluate import evaluate
from ringfence.hooks.errors import JobError
from ringfence.job.job_file import read_job
from ringfence.report.run_data import read_run
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare
from ringfence.tracking.model_files import read_state
from ringfence.tracking.model_record import read_model_record

JOB = """\
model: {name: mlp, hidden: [8]}
data: {name: mnist10k, limit: 200}
steps: 9
batch_size: 32
eval_every: 4
threads: 1
averaging: {ema: {decay: 0.5}, swa: {start: 0.3, every: 2}}
plugins:
  - optim: {algorithm: adamw, lr: 1e-2}
    isolation: trusted
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averages")
    (folder / "job.yaml").write_text(JOB)
    before, lines = torch.get_num_threads(), []
    prepared = prepare(read_job(folder / "job.yaml"), folder)
    display = RunDisplay(PlainView(lines.append))
    outcome = execute(prepared, folder / "run", RunOptions(observers=[display], report=False))
    lines += outcome_lines(outcome, display, str)
    torch.set_num_threads(before)
    return outcome, prepared, lines


def test_each_is_a_file_that_any_loader_reads_and_that_gives_its_figures(run):
    outcome, prepared, _ = run
    record = json.loads((outcome.folder / "run.json").read_text())
    told = read_model_record(outcome.folder)
    part = prepared.setup.data.judged_by
    for name in ("ema", "swa"):
        weights = load_file(outcome.folder / f"model-{name}.safetensors")
        assert weights.keys() == load_file(outcome.folder / "model.safetensors").keys()
        state = read_state(outcome.folder, told, "last", weights=name, tell=pytest.fail)
        assert all(torch.equal(weights[key], tensor) for key, tensor in state.tensors.items())
        prepared.setup.model.load_state_dict(weights)
        metrics = evaluate(
            prepared.setup.model,
            prepared.setup.data.judging,
            prepared.setup.objective,
            lambda inputs: (inputs - prepared.setup.data.mean[0]) / prepared.setup.data.std[0],
            batch_size=512,
            device=torch.device("cpu"),
        )
        assert record["averaged_metrics"][name][part] == pytest.approx(metrics, rel=1e-5)
    assert record["averaged_metrics"]["ema"] != record["averaged_metrics"]["swa"]
    assert record["start"]["plan"]["averages"] == ["ema", "swa"]


def test_figures_are_lines_of_their_own_kind(run):
    outcome, prepared, lines = run
    part = prepared.setup.data.judged_by
    found = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in found if r["kind"] == f"{part}_ema"] == [4, 8, 9]
    assert [r["step"] for r in found if r["kind"] == f"{part}_swa"] == [4, 8, 9]
    assert sum(line.startswith(f"  ema  {part} loss ") for line in lines) == 3
    # The test figures are told once, with how the run ended, as those of the weights themselves are.
    assert [line.split()[0] for line in lines if "test loss" in line] == ["test", "ema", "swa"]


def test_the_report_takes_the_lines_as_what_they_are(run):
    assert read_run(run[0].folder).left_out.told() == []


def test_a_run_too_short_for_an_average_is_refused_by_its_key_and_line(tmp_path):
    (tmp_path / "job.yaml").write_text(JOB.replace("decay: 0.5", "every: 10").replace("every: 2", "every: 7"))
    with pytest.raises(JobError, match=r"job.yaml:7:18: averaging.ema: would average nothing: .* 9 steps"):
        prepare(read_job(tmp_path / "job.yaml"), tmp_path)
