"""What a run's folder tells a Python program, whoever the folder comes from."""

import json
import shutil

import numpy as np
import pytest

import ringfence

from .conftest import TRUSTED


def test_numbers_come_as_arrays_by_part_and_name(run):
    steps, losses = run.metrics["train"]["loss"]

    assert steps.tolist() == [0, 1, 2, 3, 4, 5]
    assert (steps.dtype, losses.dtype) == (np.int64, np.float64)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert losses.tolist() == [line["loss"] for line in lines if line["kind"] == "train"]


def test_what_a_plugin_logged_is_among_them(run):
    own = run.metrics["monitor"]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    name = next(iter(own))

    assert own[name].values.tolist() == [
        line[f"monitor/{name}"] for line in lines if f"monitor/{name}" in line
    ]


def test_it_tells_what_became_of_the_run(run):
    record = json.loads((run.folder / "run.json").read_text())

    assert (run.status, run.error, run.weights_sha256) == ("completed", None, record["weights_sha256"])
    assert run.record["final_metrics"] == record["final_metrics"]
    assert [plugin["name"] for plugin in run.plugins] == ["optim", "monitor"]
    assert (run.faults, run.left_out) == ((), ())
    assert any(event["message"] == "resumed after 4 steps" for event in run.events)
    assert run.report == run.folder / "report.html"
    assert list(run.checkpoints) == [0, 4, 6]
    assert (run.job.steps, run.job.model.options) == (6, {"hidden": [8]})


def test_a_notebook_is_shown_a_table_in_which_nothing_is_markup(run, tmp_path):
    folder = tmp_path / "<script>alert(1)</script>"
    shutil.copytree(run.folder, folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "<b>fine</b>"}))

    shown = ringfence.open_run(folder)._repr_html_()

    assert "<tr><th>status</th><td>&lt;b&gt;fine&lt;/b&gt;</td></tr>" in shown
    assert "<script" not in shown
    assert len(shown) < 2000
    assert "steps 6" in repr(run)


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (shutil.rmtree, "there is no such folder; name the folder of a run"),
        (lambda folder: (folder / "run.json").unlink(), "holds no run.json"),
        (lambda folder: (folder / "run.json").write_text('{"schema": 99}'), "a later ringfence has written"),
    ],
)
def test_what_is_no_run_that_can_be_read_is_refused(run, tmp_path, prepare, told):
    folder = tmp_path / "copy"
    shutil.copytree(run.folder, folder)
    prepare(folder)

    with pytest.raises(ringfence.JobError, match=told):
        ringfence.open_run(folder)


def test_of_a_strangers_folder_no_link_is_followed_and_what_is_missing_is_named(run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text('{"kind": "train", "step": 0, "loss": 1.0}\n')
    folder = tmp_path / "copy"
    shutil.copytree(run.folder, folder)
    for name in ("metrics.jsonl", "report.html"):
        (folder / name).unlink()
        (folder / name).symlink_to(secret)

    found = ringfence.open_run(folder)

    assert (dict(found.metrics), found.report) == ({}, None)
    assert any(told.startswith("metrics.jsonl is a symbolic link") for told in found.left_out)


def test_its_methods_are_the_functions_of_that_name_called_with_its_folder(run):
    inputs = run.load("last").record.input.shape
    found = run.predict(np.zeros((2, *inputs), np.uint8), checkpoint="last")

    assert len(found.probabilities) == 2
    measured = run.evaluate(checkpoint="last")
    assert measured == ringfence.evaluate(run.folder, checkpoint="last")
    assert measured["validation"]["accuracy"] == run.record["final_metrics"]["accuracy"]


def test_a_job_that_is_damaged_is_told_when_it_is_asked_for(run, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run.folder, folder)
    (folder / "job.yaml").write_text("model: [")

    found = ringfence.open_run(folder)

    assert found.status == "completed"
    with pytest.raises(ringfence.JobError, match=r"job\.yaml"):
        _ = found.job


def test_averages_of_the_weights_have_numbers_of_their_own(tmp_path):
    run = ringfence.train(TRUSTED, averaging="ema", out=tmp_path / "run", progress=False)

    measured = json.loads((run.folder / "run.json").read_text())["averaged_metrics"]["ema"]
    for part, figures in measured.items():
        assert {name: curve.values[-1] for name, curve in run.metrics[f"{part}_ema"].items()} == figures
    assert "validation_ema" in run.metrics
