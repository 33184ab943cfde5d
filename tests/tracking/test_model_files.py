"""The weights that a run leaves as files of its folder, however it ends."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from ringfence.api.run_display import QuietView, RunDisplay
from ringfence.hooks.errors import CheckpointError, RunAbortedError
from ringfence.job.job_file import read_job
from ringfence.plugins.stop_request import StopRequest
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare
from ringfence.tracking.model_files import read_state
from ringfence.tracking.model_record import read_model_record

JOB = """\
model: {name: "counted_net:Net"}
data: {name: mnist10k, limit: 64}
steps: 4
batch_size: 16
threads: 1
checkpoint_every: 1
eval_every: 1
keep_checkpoints: 9
plugins:
  - optim: {algorithm: sgd, lr: 0.5}
    isolation: trusted
"""

#: Two layers that share a weight, a buffer that no ``state_dict`` has, and state beside all of these.
NET = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.tied = nn.Linear(784, 784), nn.Linear(784, 784)
        self.tied.weight = self.first.weight
        self.last = nn.Linear(784, 10)
        self.norm = nn.BatchNorm1d(784)
        self.register_buffer("seen", torch.zeros(1), persistent=False)
        self.calls = 0

    def forward(self, inputs):
        if self.training:
            self.seen += 1
            self.calls += 1
            if self.calls == {fails_at}:
                raise ValueError("no more")
        return self.last(self.norm(self.tied(self.first(inputs.flatten(1))))) + self.seen + self.calls

    def get_extra_state(self):
        return {{"calls": self.calls}}

    def set_extra_state(self, state):
        self.calls = state["calls"]
"""


class Watching(RunDisplay):
    """Notes what ``model.json`` says before the first step; asks for a stop after ``stop_after``."""

    def __init__(self, folder, stop, stop_after):
        super().__init__(QuietView())
        self.folder, self.stop, self.stop_after, self.first = folder, stop, stop_after, None

    def sampled(self, batch, step):
        super().sampled(batch, step)
        self.first = json.loads((self.folder / "model.json").read_text())

    def step(self, step, loss, samples):
        super().step(step, loss, samples)
        if step.global_step + 1 == self.stop_after:
            self.stop.make(5.0)


def train(base, *, fails_at=-1, stop_after=-1, resume=False):
    """Run the job below ``base`` and return the watcher."""
    (base / "job.yaml").write_text(JOB)
    (base / "counted_net.py").write_text(NET.format(fails_at=fails_at))
    stop = StopRequest()
    watcher = Watching(base / "run", stop, stop_after)
    threads = torch.get_num_threads()
    try:
        prepared = prepare(read_job(base / "job.yaml"), base)
        execute(
            prepared,
            base / "run",
            RunOptions(resume=resume, observers=[watcher], stop=stop, report=False),
        )
    finally:
        torch.set_num_threads(threads)
    return watcher


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A folder beside which the job lies, and the run in it; its watcher."""
    base = tmp_path_factory.mktemp("ended")
    return base / "run", train(base)


@pytest.fixture
def run(ended, tmp_path):
    """A copy of the run, to be damaged."""
    return shutil.copytree(ended[0], tmp_path / "copy")


def state(run, checkpoint="best", **options):
    told = []
    return read_state(run, read_model_record(run), checkpoint, tell=told.append, **options), told


def best_step(run):
    return json.loads((run / "run.json").read_text())["best_step"]


def checkpoint(run, step):
    return run / f"checkpoints/step-{step:08d}"


def damage(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_what_the_model_is_is_written_before_the_first_step_and_has_no_weights_yet(ended):
    run, watcher = ended

    assert watcher.first["weights"] == {}
    assert {**watcher.first, "weights": 0} == {**json.loads((run / "model.json").read_text()), "weights": 0}


def test_the_files_are_the_last_and_the_best_checkpoint_by_plain_names(ended):
    run, _ = ended
    names = load_file(run / "model.safetensors").keys()

    assert {"first.weight", "last.bias", "norm.running_mean"} <= names
    assert not {"tied.weight", "seen"} & names  # the first is shared, the other no state_dict has
    for name, step in (("model", 4), ("model-best", best_step(run))):
        found, expected = (
            load_file(run / f"{name}.safetensors"),
            load_file(checkpoint(run, step) / "model.safetensors"),
        )
        assert all(torch.equal(found[key], expected[key]) for key in found)


def test_the_file_fits_the_users_own_class(ended, monkeypatch):
    monkeypatch.syspath_prepend(ended[0].parent)
    import counted_net

    found = counted_net.Net().load_state_dict(load_file(ended[0] / "model.safetensors"), strict=False)
    assert (found.missing_keys, found.unexpected_keys) == (["_extra_state", "tied.weight"], [])


def test_every_checkpoint_tells_the_same_of_the_model_with_the_digest_of_its_own_weights(ended):
    run, _ = ended
    told = json.loads((run / "model.json").read_text())
    for step in range(5):
        own = json.loads((checkpoint(run, step) / "model.json").read_text())
        digest = json.loads((checkpoint(run, step) / "state.json").read_text())["digests"][
            "model.safetensors"
        ]
        assert own["weights"] == {"model.safetensors": digest}
        assert {**own, "weights": 0} == {**told, "weights": 0}


@pytest.mark.parametrize(("asked", "calls"), [("last", 4), (1, 1), (3, 3)])
def test_a_state_is_that_of_the_step_that_is_asked_for(ended, asked, calls):
    found, told = state(ended[0], asked)

    assert (found.extra_state, found.tensors["seen"].item(), told) == ({"": {"calls": calls}}, calls, [])


def test_the_best_one_is_that_of_the_record(ended):
    assert state(ended[0])[0].extra_state == {"": {"calls": best_step(ended[0])}}


@pytest.mark.parametrize("asked", ["best", "last"])
def test_without_checkpoints_the_files_give_all_of_it(run, asked):
    before = state(run, asked)[0]
    shutil.rmtree(run / "checkpoints")
    after, told = state(run, asked)

    assert (after.extra_state, told) == (before.extra_state, [])
    assert after.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(after.tensors[name], before.tensors[name]) for name in before.tensors)


@pytest.mark.parametrize("file", ["model.safetensors", "engine.safetensors", "state.json"])
def test_in_place_of_a_damaged_checkpoint_the_one_before_is_taken_and_that_is_told(run, file):
    damage(checkpoint(run, 4) / file)
    found, told = state(run, "last")

    assert found.extra_state == {"": {"calls": 3}}
    assert "step-00000004 is damaged" in told[0]


def test_in_place_of_a_damaged_best_one_another_is_taken_and_that_is_told(run):
    damage(checkpoint(run, best_step(run)) / "model.safetensors")
    found, told = state(run)

    assert found.extra_state != {"": {"calls": best_step(run)}}
    assert "is damaged" in told[0]


def test_of_a_step_there_is_that_one_or_none(run):
    damage(checkpoint(run, 2) / "model.safetensors")
    with pytest.raises(CheckpointError, match="step-00000002 is damaged"):
        state(run, 2)
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7; there are those of 0, 1, 2, 3, 4"):
        state(run, 7)


@pytest.mark.parametrize("file", ["model.safetensors", "model.extra.safetensors"])
def test_a_file_that_does_not_match_its_digest_is_refused(run, file):
    shutil.rmtree(run / "checkpoints")
    damage(run / file)

    with pytest.raises(CheckpointError, match=f"{file} is damaged: it does not match its digest"):
        state(run, "last")


@pytest.mark.parametrize("place", ["checkpoints", "."])
def test_weights_larger_than_the_network_are_not_read(run, place):
    """A header that promises a lot, or a file with holes, takes no memory."""
    path = checkpoint(run, 4) / "model.safetensors"
    if place == ".":
        shutil.rmtree(run / "checkpoints")
        path = run / "model.safetensors"
    os.truncate(path, 1 << 40)
    with pytest.raises(CheckpointError, match=r"at most|does not match"):
        state(run, 4 if place == "checkpoints" else "last", max_bytes=1 << 20)


@pytest.mark.parametrize("name", ["checkpoints", "model.safetensors"])
def test_no_link_is_followed(run, tmp_path, name):
    if name != "checkpoints":
        shutil.rmtree(run / "checkpoints")
    (run / name).rename(tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(CheckpointError, match="symbolic link"):
        state(run, "last")


def test_a_checkpoint_of_another_network_is_refused(run):
    told = json.loads((run / "model.json").read_text())
    told["model"]["options"] = {"width": 8}
    (run / "model.json").write_text(json.dumps(told))

    with pytest.raises(CheckpointError, match=r"is of another network than the run's model\.json"):
        state(run)


def test_an_average_that_the_run_did_not_keep_is_told(ended):
    with pytest.raises(CheckpointError, match=r"model-ema.safetensors is not there, but model-best"):
        state(ended[0], weights="ema")


def test_an_interrupted_run_leaves_them_and_one_that_is_resumed_renews_them(tmp_path):
    train(tmp_path, stop_after=2)
    run = tmp_path / "run"
    assert state(run, "last")[0].extra_state == {"": {"calls": 2}}
    before = load_file(run / "model.safetensors")

    train(tmp_path, resume=True)
    after, expected = (
        load_file(run / "model.safetensors"),
        load_file(checkpoint(run, 4) / "model.safetensors"),
    )
    assert not torch.equal(after["last.bias"], before["last.bias"])
    assert torch.equal(after["last.bias"], expected["last.bias"])


def test_a_run_that_fails_leaves_them(tmp_path):
    with pytest.raises(RunAbortedError, match="no more"):
        train(tmp_path, fails_at=4)
    shutil.rmtree(tmp_path / "run/checkpoints")

    assert state(tmp_path / "run", "last")[0].extra_state == {"": {"calls": 3}}
