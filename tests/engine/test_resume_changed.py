"""A run goes on with another job than it was stopped with, because the user says so."""

import pytest
from engine_helpers import (
    Momentum,
    StopAt,
    TapeRecorder,
    adamw,
    asking,
    config,
    convnet,
    hooks_of,
    image_data,
    plugin,
    run,
)

from ringfence.engine.checkpoints.fingerprint import Fingerprint
from ringfence.engine.checkpoints.manifest import read_manifest
from ringfence.engine.config import EarlyStopping
from ringfence.engine.losses import CrossEntropy
from ringfence.hooks.errors import CheckpointError, JobError, RunAbortedError
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin

pytestmark = pytest.mark.usefixtures("one_thread")

STOPPED, STEPS = 5, 9


class Between(Momentum):
    """Does something from one step to another only: what comes of a plugin that is added or removed."""

    def __init__(self, first, last):
        super().__init__()
        self.range = range(first, last)

    def backward(self, gradients, step):
        return super().backward(gradients, step) if step.global_step in self.range else gradients


class Picky(Momentum):
    """Takes no state but that of its own version."""

    version = 1

    def state_dict(self):
        return {"version": self.version}

    def load_state_dict(self, state):
        if state["version"] != self.version:
            raise ValueError(f"version {state['version']} is not mine")


class PickyLater(Picky):
    version = 2


class FailsLater(Momentum):
    """Takes a state that does not fit, and fails over it."""

    def load_state_dict(self, state):
        self.broken = True

    def backward(self, gradients, step):
        if getattr(self, "broken", False):
            raise KeyError("exp_avg")
        return super().backward(gradients, step)


def started(instance, name="momentum", **settings):
    spec = PluginSpec(name, "tests", "0", "tests", "C", "gradient", isolation="trusted", **settings)
    found = LocalPlugin(spec, instance)
    found.restart = lambda: None
    return found


def names(*plugins):
    return [{each.spec.name: dict(each.spec.options)} for each in plugins]


def train(folder, plugins, *, accept=(), stop=None, resume=False, observer=None, fingerprint=None, **changes):
    observer = observer or (TapeRecorder() if stop is None else StopAt(stop))
    accepted = []
    mine = Fingerprint(
        values={"plugins": names(*plugins)} | (fingerprint or {}),
        accept=frozenset(accept),
        on_accepted=lambda step, found: accepted.append((step, [difference.key for difference in found])),
    )
    more = {} if folder is None else {"checkpoints": folder, "resume": resume, "fingerprint": mine}
    settings = {"steps": STEPS, "checkpoint_every": 3} | changes
    result = run(
        convnet(), image_data(), hooks_of(*plugins), config(**settings),
        observer=observer, **more, **({} if stop is None else {"stop": asking(observer.stop)}),
    )  # fmt: skip
    return result, observer, accepted


def test_an_added_plugin_starts_without_state_where_the_run_goes_on(tmp_path):
    expected, _, _ = train(None, [started(Between(STOPPED, STEPS)), adamw()])
    train(tmp_path, [adamw()], stop=STOPPED)
    with pytest.raises(CheckpointError, match="momentum: not in the checkpoint; it starts without"):
        train(tmp_path, [plugin(Momentum), adamw()], resume=True)
    result, observer, accepted = train(
        tmp_path, [plugin(Momentum), adamw()], resume=True, accept=["plugins.momentum"]
    )
    assert result.weights_sha256 == expected.weights_sha256
    assert accepted == [(STOPPED, ["plugins.momentum"])]
    assert "accepted: plugins.momentum: not in the checkpoint; it starts without state" in observer.events
    assert read_manifest(tmp_path / "step-00000009")["plugins"].keys() == {"momentum", "optim"}


def test_a_removed_plugin_leaves_its_state_behind_in_the_checkpoints_before(tmp_path):
    expected, _, _ = train(None, [started(Between(0, STOPPED)), adamw()])
    train(tmp_path, [plugin(Momentum), adamw()], stop=STOPPED)
    result, observer, _ = train(
        tmp_path, [adamw()], resume=True, accept=["plugins.momentum"], keep_checkpoints=9
    )
    assert result.weights_sha256 == expected.weights_sha256
    assert "accepted: plugins.momentum: in the checkpoint, not in this job; its state is left behind" in (
        observer.events
    )
    kept = {path.name: set(read_manifest(path)["plugins"]) for path in tmp_path.iterdir()}
    assert kept["step-00000005"] == {"momentum", "optim"}
    assert kept["step-00000006"] == kept["step-00000009"] == {"optim"}


def test_a_plugin_that_is_removed_and_added_again_starts_anew(tmp_path):
    train(tmp_path, [plugin(Momentum), adamw()], stop=2)
    train(tmp_path, [adamw()], resume=True, accept=["plugins.momentum"], stop=4)
    result, _, _ = train(tmp_path, [plugin(Momentum), adamw()], resume=True, accept=["plugins.momentum"])
    reference = Between(0, 2)

    class Twice(Between):
        def backward(self, gradients, step):
            if step.global_step == 4:
                self.mean, self.range = {}, range(4, STEPS)
            return super().backward(gradients, step)

    twice = Twice(0, 2)
    assert reference.range == twice.range
    expected, _, _ = train(None, [started(twice), adamw()])
    assert result.weights_sha256 == expected.weights_sha256


def test_a_plugin_that_does_not_take_its_state_is_told_with_the_way_out(tmp_path):
    train(tmp_path, [started(Picky(), "picky"), adamw()], stop=STOPPED)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(CheckpointError) as caught:
        train(tmp_path, [started(PickyLater(), "picky"), adamw()], resume=True)
    message = str(caught.value)
    assert "plugin 'picky' in 'gradient.load_state_dict': raised ValueError: version 1 is not mine" in message
    assert message.endswith("to start it without, add: --accept state.picky")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    result, observer, accepted = train(
        tmp_path, [started(PickyLater(), "picky"), adamw()], resume=True, accept=["state.picky"]
    )
    assert (result.status, result.steps) == ("completed", STEPS)
    assert (
        "accepted: state.picky: the plugin starts without its state; that stays in the checkpoint"
        in observer.events
    )
    assert accepted == [(STOPPED, ["state.picky"])]


def test_a_plugin_that_fails_over_its_state_later_is_told_with_the_way_out_too(tmp_path):
    def plugins(scale):
        return [started(FailsLater(), "later", options={"scale": scale}, on_failure="abort"), adamw()]

    train(tmp_path, plugins(1), stop=STOPPED)
    with pytest.raises(RunAbortedError, match=r"KeyError: 'exp_avg'.*without, with --accept state\.later"):
        train(tmp_path, plugins(2), resume=True, accept=["plugins.later.scale"])
    both = ["plugins.later.scale", "state.later"]
    assert train(tmp_path, plugins(2), resume=True, accept=both)[0].status == "completed"


def test_a_state_is_not_left_behind_of_a_plugin_that_there_is_not(tmp_path):
    train(tmp_path, [adamw()], stop=STOPPED)
    with pytest.raises(
        JobError, match=r"--accept state\.optin: the job has no plugin 'optin'; it has: optim"
    ):
        train(tmp_path, [adamw()], resume=True, accept=["state.optin"])


OLD = {"loss": {"name": "cross_entropy"}, "metric": "accuracy"}


@pytest.mark.parametrize(
    ("accept", "new"),
    [
        (["metric"], {"metric": "f1"}),
        (["loss.smoothing"], {"loss": {"name": "cross_entropy", "smoothing": 0.1}}),
        (["loss.smoothing", "metric"], {"metric": "f1", "loss": {"name": "cross_entropy", "smoothing": 0.1}}),
    ],
)
def test_another_metric_or_loss_is_judged_anew(tmp_path, accept, new):
    """Early stopping must not hold one metric against another, nor the run end with the old loss."""
    settings = {"early_stopping": EarlyStopping(patience=9), "eval_every": 2}
    train(tmp_path, [adamw()], stop=4, fingerprint=OLD, **settings)
    changed = OLD | new
    settings |= {"metric": changed["metric"], "loss": CrossEntropy(changed["loss"].get("smoothing", 0.0))}
    result, observer, accepted = train(
        tmp_path, [adamw()], resume=True, fingerprint=changed, accept=accept, **settings
    )
    assert accepted == [(4, accept)]
    judged = [entry for entry in observer.tape if entry[0] == "evaluated"]
    # The last evaluation was that of the old job.
    assert [step for _, step, _ in judged] == [4, 6, 8, 9]
    _, metrics, best = judged[0][2]
    assert metrics.keys() == {"loss", changed["metric"]}
    if "metric" in new:
        assert best, "the first value of a metric is its best so far"
        assert result.best_step >= 4
