"""A run starts from weights that were trained before: by name, told where they do not fit, and no more."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ringfence.hooks.errors import CheckpointError, JobError
from ringfence.job.job_file import check_job
from ringfence.job.yaml_document import parse_yaml
from ringfence.run import start_weights
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare

JOB = """\
model: {name: mlp, hidden: [8, 6]}
data: {name: mnist10k, limit: 200}
steps: 3
batch_size: 32
checkpoint_every: 2
threads: 1
plugins: [{optim: {algorithm: adamw, lr: 1e-2}, isolation: trusted}]
"""
TENSORS = ("1.weight", "1.bias", "3.weight", "3.bias", "5.weight", "5.bias")


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def prepared(base, *lines, job=JOB, **more):
    return prepare(check_job(parse_yaml(job + "\n".join(lines), "job.yaml")), base, **more)


def run(base, folder, *lines, job=JOB, resume=False):
    return execute(
        prepared(base, *lines, job=job, resume=folder if resume else None),
        folder,
        RunOptions(report=False, resume=resume),
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The folder that holds a finished run, ``first``."""
    base = tmp_path_factory.mktemp("start")
    before = torch.get_num_threads()
    run(base, base / "first", "averaging: ema", "seed: 5")
    torch.set_num_threads(before)
    return base


@pytest.fixture
def base(first, tmp_path):
    """A copy of it that may be changed."""
    return shutil.copytree(first, tmp_path / "base")


def weights(ready):
    return {name: tensor.detach().clone() for name, tensor in ready.setup.model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("asked", "file"),
    [
        ("first", "model-best.safetensors"),
        ("{run: first, checkpoint: last}", "model.safetensors"),
        ("{run: first, checkpoint: 2}", "checkpoints/step-00000002/model.safetensors"),
        ("{run: first, weights: ema}", "model-ema.safetensors"),
        ("first/model.safetensors", "model.safetensors"),
    ],
)
def test_the_model_has_them_before_the_first_step(first, asked, file):
    ready = prepared(first, f"start_from: {asked}")
    assert same(weights(ready), load_file(first / "first" / file))
    # The control: those of its own seed are others.
    assert not same(weights(prepared(first)), load_file(first / "first" / file))


def test_what_does_not_fit_is_told_by_name_and_stays_new(first, tmp_path):
    job = JOB.replace("hidden: [8, 6]", "hidden: [8, 5, 4]")
    new = weights(prepared(first, job=job))
    ready = prepared(first, "start_from: first", job=job)
    trained, found = load_file(first / "first" / "model-best.safetensors"), weights(ready)
    assert torch.equal(found["1.weight"], trained["1.weight"])
    assert all(torch.equal(found[name], new[name]) for name in ("3.weight", "5.weight", "7.weight"))
    told = ready.setup.tried.told
    assert told[0] == "started from first (best): 2 tensors are its weights"
    assert "2 tensors are not there, and left as they were made: 7.weight, 7.bias" in told
    assert any("3.weight (6x8 there, 5x8 here)" in sentence for sentence in told)
    outcome = execute(ready, tmp_path / "run", RunOptions(report=False))
    assert told[0] in (outcome.folder / "events.jsonl").read_text()
    started = json.loads((outcome.folder / "run.json").read_text())["start"]["model"]["started_from"]
    assert (started["source"], started["which"], started["taken"], started["other_form"]) == (
        *("first", "best"),
        *(2, 4),
    )


def test_values_that_the_model_has_no_place_for_are_told(first):
    ready = prepared(first, "start_from: first", job=JOB.replace("[8, 6]", "[8]"))
    assert "2 tensors are there, but not in this model: 5.weight, 5.bias" in ready.setup.tried.told


def test_patterns_are_left_out(first):
    new = weights(prepared(first))
    ready = prepared(first, "start_from: {run: first, exclude: ['5.*']}")
    found, trained = weights(ready), load_file(first / "first" / "model-best.safetensors")
    assert torch.equal(found["5.weight"], new["5.weight"])
    assert torch.equal(found["3.weight"], trained["3.weight"])
    assert any(
        "left out, as the job says: 5.weight, 5.bias" in sentence for sentence in ready.setup.tried.told
    )


def test_other_floats_are_taken_and_whole_numbers_are_not(first, tmp_path):
    values = load_file(first / "first" / "model.safetensors")
    save_file(
        values | {"1.weight": values["1.weight"].half(), "3.bias": torch.ones(6).long()},
        tmp_path / "a.safetensors",
    )
    ready = prepared(tmp_path, "start_from: a.safetensors")
    assert torch.equal(weights(ready)["1.weight"], values["1.weight"].half().float())
    assert any("3.bias (6 int64 there, 6 here)" in sentence for sentence in ready.setup.tried.told)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "start_from: nowhere",
            r"job.yaml:8:13: start_from: there is no .*nowhere; name the folder of a run",
        ),
        ("start_from: {run: empty}", r"job.yaml:8:19: start_from.run: .*empty: holds no model.json"),
        (
            "start_from: {run: first, checkpoint: 77}",
            r"start_from.run: .*no checkpoint of step 77; .* 0, 2, 3",
        ),
        ("start_from: {run: first, weights: swa}", r"start_from.run: .*kept no such average"),
        (
            "start_from: {run: first, exclude: [nope]}",
            r"job.yaml:8:36: start_from.exclude\[0\]: 'nope' matches",
        ),
        (
            "start_from: {run: first, checkpoint: worst}",
            r"start_from.checkpoint: expected best, last, or a checkpoint's number of steps, got",
        ),
        ("start_from: {checkpoint: last}", r"start_from.run: is missing; add 'run: …'"),
        ("start_from: {run: first, exclud: [a]}", r"start_from.exclud: unknown key; did you mean 'exclude'"),
        (
            "start_from: {run: a.safetensors, checkpoint: last}",
            r"no folder of a run, so that it has no checkpoint",
        ),
        (
            "start_from: other.safetensors",
            r"nothing of .* fits the model of this job: it holds somewhere.else",
        ),
        ("start_from: broken.safetensors", r"broken.safetensors cannot be read: "),
    ],
)
def test_what_cannot_be_started_from_is_told_by_key_and_line(base, line, told):
    (base / "empty").mkdir()
    shutil.copy(base / "first" / "model.safetensors", base / "a.safetensors")
    save_file({"somewhere.else": torch.ones(2)}, base / "other.safetensors")
    data = bytearray((base / "a.safetensors").read_bytes())
    (base / "broken.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(JobError, match=told):
        prepared(base, line)


def test_what_is_larger_than_a_share_of_memory_is_not_read(base, monkeypatch):
    monkeypatch.setattr(start_weights, "machine_bytes", lambda: 4000)
    with pytest.raises(JobError, match=r"bytes; at most 1000 can belong there"):
        prepared(base, "start_from: first/model.safetensors")


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (self.marker, "w")


def test_a_pickle_is_refused_unread(base):
    marker = base / "marker"
    (base / "weights.pt").write_bytes(pickle.dumps(Bomb(str(marker))))
    with pytest.raises(JobError, match=r"weights.pt is neither .* since to load them may run code"):
        prepared(base, "start_from: weights.pt")
    assert not marker.exists()
    # The control: whoever unpickles it runs it.
    pickle.loads((base / "weights.pt").read_bytes()).close()  # noqa: S301 - that is what it shows
    assert marker.exists()


def test_of_a_folder_made_to_attack_weights_alone_are_taken(base, monkeypatch):
    marker = base / "marker"
    (base / "evil.py").write_text(
        f"import pathlib\npathlib.Path({str(marker)!r}).touch()\ndef build():\n    pass\n"
    )
    monkeypatch.syspath_prepend(base)
    monkeypatch.chdir(base)
    folder = base / "first"
    shutil.rmtree(folder / "checkpoints")
    record = json.loads((folder / "model.json").read_text())
    record["model"] = {"name": "evil:build", "options": {}}
    (folder / "model.json").write_text(json.dumps(record))
    (folder / "job.yaml").write_text("model: evil:build\nplugins: [{evil: {}, isolation: trusted}]\n")
    ready = prepared(base, "start_from: first")
    assert same(weights(ready), load_file(folder / "model-best.safetensors"))
    assert not marker.exists()
    # The control: to import what it names is to run it.
    with pytest.raises(JobError):
        prepared(base, job=JOB.replace("{name: mlp, hidden: [8, 6]}", "evil:build"))
    assert marker.exists()


def test_a_resumed_run_does_without_what_it_started_from(base):
    line, longer = "start_from: first", JOB.replace("steps: 3", "steps: 6")
    expected = run(base, base / "whole", line, job=longer).result.weights_sha256
    run(base, base / "second", line)
    shutil.rmtree(base / "first")
    assert run(base, base / "second", line, job=longer, resume=True).result.weights_sha256 == expected
    with pytest.raises(CheckpointError, match=r"start_from.run: first in the checkpoint, else in this job"):
        run(base, base / "second", "start_from: else", job=longer, resume=True)
