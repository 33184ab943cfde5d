"""Monitors that read what evaluations come to, and ask for a stop or an evaluation."""

import pytest
from engine_helpers import (
    FAULTS,
    Killed,
    StopAt,
    TapeRecorder,
    asking,
    config,
    hooks_of,
    image_data,
    mlp,
    plugin,
    run,
    sgd,
)

from ringfence.engine.checkpoints.fingerprint import Fingerprint
from ringfence.engine.config import EarlyStopping
from ringfence.hooks.types import passthrough

pytestmark = pytest.mark.usefixtures("one_thread")

#: What monitors were shown: step, and the metrics.
SHOWN = []
BOTH = ("stop", "evaluate")


class Reader:
    """Notes what it is shown."""

    role = "monitor"
    backward = passthrough

    def forward(self, step, metrics):
        SHOWN.append((step.global_step, dict(metrics)))


class Asker:
    """Counts its calls, and asks at some of them."""

    role = "monitor"
    forward = passthrough

    def __init__(self, stop_at=-1, evaluate_at=()):
        self.calls, self.stop_at, self.evaluate_at = 0, stop_at, evaluate_at

    def backward(self, step):
        self.calls += 1
        if self.calls == self.stop_at:
            step.ask("stop")
        if self.calls in self.evaluate_at:
            step.ask("evaluate")

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


def plugins(allow=BOTH, observer=None, **options):
    monitor = plugin(Asker, settings={"allow": allow, "on_failure": "disable"}, **options)
    return hooks_of(sgd(), monitor, observer=observer)


def trained(tape, hooks=None, **more):
    hooks, settings = hooks or plugins(observer=tape), more.pop("settings", config())
    return run(mlp(), image_data(), hooks, settings, observer=tape, **more)


def plainly(**settings):
    """Return the weights of a run without a monitor."""
    return trained(TapeRecorder(), hooks_of(sgd()), settings=config(**settings)).weights_sha256


def evaluations(tape):
    return {step: value[1] for kind, step, value in tape if kind == "evaluated"}


# what they are shown


def test_a_monitor_is_shown_the_last_evaluation_also_after_a_resume(tmp_path):
    def seen(settings, **more):
        SHOWN.clear()
        tape = more.pop("tape", TapeRecorder())
        run(mlp(), image_data(), hooks_of(sgd(), plugin(Reader)), settings, observer=tape, **more)
        return dict(SHOWN), tape

    settings = config(eval_every=5, checkpoint_every=4)
    shown, tape = seen(settings)
    found = evaluations(tape.tape)
    assert [shown[step] for step in (0, 4)] == [{}, {}]
    of_evaluation = {step: {**metrics} for step, metrics in shown.items()}
    epochs = [(m.pop("epoch", None), m.pop("train_loss", None)) for m in of_evaluation.values()]
    assert [epoch for epoch, _ in epochs] == [None] * 7 + [1] * 7 + [2] * 7
    assert of_evaluation[5] == of_evaluation[9] == {**found[5], "step": 5}
    assert of_evaluation[20] == {**found[20], "step": 20}
    stop = StopAt(12)
    seen(settings, tape=stop, stop=asking(stop.stop), checkpoints=tmp_path)
    again, _ = seen(settings, checkpoints=tmp_path, resume=True)
    assert again == {step: metrics for step, metrics in shown.items() if step >= 12}


# what they ask for


def test_a_run_stops_after_the_step_in_which_it_was_asked_to_and_is_evaluated(tmp_path):
    tape = TapeRecorder()
    found = trained(tape, plugins(stop_at=10, observer=tape), checkpoints=tmp_path)
    assert (found.status, found.steps, found.final_metrics_step) == ("stopped_early", 10, 10)
    assert "stopped at step 10: plugin 'asker' asked for it" in tape.events
    assert (
        found.weights_sha256
        == trained(TapeRecorder(), hooks_of(sgd()), settings=config(steps=10)).weights_sha256
    )
    # What has ended stays so, until the plugin may no longer ask.
    again = trained(TapeRecorder(), plugins(), checkpoints=tmp_path, resume=True)
    assert (again.status, again.steps, again.weights_sha256) == ("stopped_early", 10, found.weights_sha256)


def test_a_run_that_was_stopped_goes_on_once_the_plugin_may_no_longer_ask(tmp_path):
    before = Fingerprint(values={"allow": {"asker": BOTH}})
    trained(TapeRecorder(), plugins(stop_at=10), checkpoints=tmp_path, fingerprint=before)
    now = Fingerprint(values={"allow": {"asker": ()}}, accept=frozenset({"allow.asker"}))
    hooks = plugins((), stop_at=10)
    found = trained(TapeRecorder(), hooks, checkpoints=tmp_path, resume=True, fingerprint=now)
    assert (found.status, found.steps) == ("completed", 21)
    assert found.weights_sha256 == plainly()


def test_patience_is_not_named_where_a_plugin_stopped_the_run():
    tape = TapeRecorder()
    settings = config(early_stopping=EarlyStopping(patience=50), eval_every=2)
    assert trained(tape, plugins(stop_at=4), settings=settings).status == "stopped_early"
    assert not [event for event in tape.events if "has not improved" in event]


def test_an_evaluation_that_is_asked_for_is_one_like_any_other():
    tape = TapeRecorder()
    found = trained(tape, plugins(evaluate_at=(3, 4, 7), observer=tape))
    assert list(evaluations(tape.tape)) == [3, 4, 7, 14, 21]
    without = TapeRecorder()
    assert found.weights_sha256 == trained(without, hooks_of(sgd())).weights_sha256
    assert evaluations(without.tape)[7] == evaluations(tape.tape)[7]


def test_what_the_job_does_not_allow_is_told_once_and_changes_nothing():
    tape = TapeRecorder()
    found = trained(tape, plugins(("evaluate",), stop_at=5, observer=tape))
    assert (found.status, found.steps) == ("completed", 21)
    tape = TapeRecorder()
    found = trained(tape, plugins((), evaluate_at=(2, 3, 5), stop_at=5, observer=tape))
    assert (found.status, list(evaluations(tape.tape))) == ("completed", [7, 14, 21])
    told = [event for event in tape.events if "asks the run to" in event]
    assert len(told) == 2
    assert told[0] == (
        "plugin 'asker' asks the run to evaluate, which the job does not allow: "
        "'allow: [evaluate]' beside the plugin would"
    )


def test_what_nobody_can_grant_is_told_once(monkeypatch):
    monkeypatch.setattr(Asker, "backward", lambda self, step: step.ask("stopp"))
    tape = TapeRecorder()
    assert trained(tape, plugins(observer=tape)).status == "completed"
    assert tape.events == ["plugin 'asker' asks the run to stopp, which is none of stop, evaluate"]


# over faults, stops and resumes


class DieAt(TapeRecorder):
    def __init__(self, at):
        super().__init__()
        self.at = at

    def step(self, step, loss, samples):
        super().step(step, loss, samples)
        if step.global_step == self.at:
            raise Killed


SETTINGS = {"checkpoint_every": 4, "snapshot_every": 3}


@pytest.mark.parametrize("at", [2, 5, 9, 12])
def test_a_run_that_was_killed_asks_again_and_ends_where_it_would_have(tmp_path, at):
    options = {"evaluate_at": (5, 10), "stop_at": 13}
    straight = TapeRecorder()
    expected = trained(straight, plugins(**options), settings=config(**SETTINGS))
    dying = DieAt(at)
    with pytest.raises(Killed):
        trained(dying, plugins(**options), settings=config(**SETTINGS), checkpoints=tmp_path)
    revived = TapeRecorder(dying.tape)
    found = trained(
        revived, plugins(**options), settings=config(**SETTINGS), checkpoints=tmp_path, resume=True
    )
    assert (found.status, found.steps) == (expected.status, expected.steps) == ("stopped_early", 13)
    assert found.weights_sha256 == expected.weights_sha256
    assert revived.tape == straight.tape


@pytest.mark.parametrize("keeps", [True, False])
def test_a_fault_of_another_plugin_takes_back_what_was_asked_since(monkeypatch, keeps):
    """Also of a monitor whose state no snapshot has yet: it is started anew, since what it asks counts."""
    if not keeps:
        monkeypatch.setattr(
            Asker, "state_dict", lambda self: {"calls": self.calls} if self.calls > 8 else None
        )
    options = {"evaluate_at": (5,), "stop_at": 9}
    settings = config(snapshot_every=6 if keeps else 100)
    straight = TapeRecorder()
    expected = trained(straight, plugins(**options), settings=settings)
    FAULTS.append(("optim", "backward", 6))
    again = TapeRecorder()
    found = trained(again, plugins(**options), settings=settings)
    assert again.rollbacks
    assert (
        (found.steps, found.weights_sha256)
        == (expected.steps, expected.weights_sha256)
        == (9, found.weights_sha256)
    )
    assert again.tape == straight.tape


def test_an_evaluation_that_was_asked_for_and_cut_off_is_made_when_the_run_goes_on(tmp_path, monkeypatch):
    straight = TapeRecorder()
    expected = trained(straight, plugins(evaluate_at=(5,)))
    from ringfence.engine import train

    whole, cut = train.measure, TapeRecorder()
    monkeypatch.setattr(
        train, "measure", lambda run, data: None if run.progress.step == 5 else whole(run, data)
    )
    stop = asking(lambda: any(entry[:2] == ("step", 4) for entry in cut.tape))
    assert trained(cut, plugins(evaluate_at=(5,)), stop=stop, checkpoints=tmp_path).status == "interrupted"
    monkeypatch.setattr(train, "measure", whole)
    revived = TapeRecorder(cut.tape)
    found = trained(revived, plugins(evaluate_at=(5,)), checkpoints=tmp_path, resume=True)
    assert found.weights_sha256 == expected.weights_sha256
    assert revived.tape == straight.tape
