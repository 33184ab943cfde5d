"""A run that is stopped in the middle of an evaluation or a step loses nothing that cannot be made again."""

from types import SimpleNamespace

import pytest
from engine_helpers import (
    StopAt,
    TapeRecorder,
    asking,
    config,
    hooks_of,
    image_data,
    mlp,
    run,
    same_weights,
    sgd,
)

from ringfence.engine.checkpoints.manifest import read_manifest
from ringfence.engine.checkpoints.retention import list_checkpoints
from ringfence.engine.config import EarlyStopping
from ringfence.hooks.errors import CutOffError
from ringfence.plugins import stop_request
from ringfence.plugins.stop_request import StopRequest


class StopInEvaluation(StopAt):
    """Asks the run to stop before the third batch of the evaluation after ``at`` steps."""

    asked = 0

    def stop(self):
        self.asked += self.done >= self.at
        return self.asked > 2


@pytest.mark.parametrize("at", [7, 14, 21], ids=["first", "middle", "last"])
def test_an_evaluation_that_is_left_out_is_made_up_for(tmp_path, at):
    settings = config(eval_batch_size=5, early_stopping=EarlyStopping(patience=9), keep_checkpoints=9)
    whole, straight = mlp(), TapeRecorder()
    expected = run(whole, image_data(), hooks_of(sgd()), settings, observer=straight)
    folder = tmp_path / "checkpoints"
    first = StopInEvaluation(at)
    stopped = run(
        mlp(),
        image_data(),
        hooks_of(sgd()),
        settings,
        observer=first,
        checkpoints=folder,
        stop=asking(first.stop),
    )
    assert (stopped.status, stopped.steps) == ("interrupted", at)
    assert first.asked == 4  # once more before the next step, or the evaluation at the end
    assert [step for kind, step, _ in first.tape if kind == "evaluated"] == list(range(7, at, 7))
    model, second = mlp(), TapeRecorder(first.tape)
    resumed = run(
        model, image_data(), hooks_of(sgd()), settings, observer=second, checkpoints=folder, resume=True
    )
    assert resumed.status == "completed"
    assert second.tape == straight.tape
    assert same_weights(model, whole)
    assert (resumed.best_metric, resumed.best_step) == (expected.best_metric, expected.best_step)
    # The checkpoint knows its metric now, so that it can be kept as the best.
    judged = [read_manifest(path)["metric"] for path in list_checkpoints(folder) if f"{at:08}" in path.name]
    assert judged != [None]


class CutOff(StopAt):
    """Lets the time be over as soon as the run is asked to stop."""

    def __init__(self, at):
        super().__init__(at)
        self.request = asking(lambda: False)

    def step(self, step, loss, samples):
        super().step(step, loss, samples)
        if self.done == self.at:
            self.request.make(0.0)


def test_a_step_of_many_batches_is_cut_off_and_the_last_snapshot_kept(tmp_path):
    settings = config(grad_accum_steps=2, snapshot_every=3, checkpoint_every=99)
    whole, straight = mlp(), TapeRecorder()
    run(whole, image_data(), hooks_of(sgd()), settings, observer=straight)
    folder, first = tmp_path / "checkpoints", CutOff(5)
    stopped = run(
        mlp(), image_data(), hooks_of(sgd()), settings, observer=first, checkpoints=folder, stop=first.request
    )
    assert (stopped.status, stopped.steps, stopped.steps_given_up) == ("interrupted", 3, 2)
    assert first.rollbacks == [3]
    assert "step 5 had not ended" in first.events[-1]
    assert "after 3 steps, its last snapshot, with 2 to take again" in first.events[-1]
    model, second = mlp(), TapeRecorder(first.tape)
    run(model, image_data(), hooks_of(sgd()), settings, observer=second, checkpoints=folder, resume=True)
    assert second.tape == straight.tape
    assert same_weights(model, whole)


def test_a_run_that_may_not_begin_any_more_keeps_nothing(tmp_path):
    stop, observer = StopRequest(), TapeRecorder()
    stop.make(0.0)
    with pytest.raises(CutOffError, match="the start of the run had not ended"):
        run(
            mlp(), image_data(), hooks_of(sgd()), config(),
            observer=observer, checkpoints=tmp_path / "checkpoints", stop=stop,
        )  # fmt: skip
    assert not (tmp_path / "checkpoints").exists()
    assert observer.tape == []


def test_the_time_for_a_stop_ends_once_and_never_later(monkeypatch):
    now = 100.0
    monkeypatch.setattr(stop_request, "time", SimpleNamespace(monotonic=lambda: now))
    stop = StopRequest()
    assert not stop.is_made()
    assert stop.shortest(0.1) == 0.1
    assert stop.shortest(60) == StopRequest.LOOK_S
    stop.make(0.05)
    stop.make(60)
    assert stop.is_made()
    assert not stop.is_over
    now += 0.04
    assert stop.shortest(60) == pytest.approx(0.01)
    now += 0.02
    assert stop.shortest(60) == 0
    with pytest.raises(CutOffError, match="this had not ended"):
        stop.check("this")


def test_a_request_without_an_end_is_made_and_lets_all_that_is_under_way_finish():
    stop = StopRequest()
    stop.make()
    assert stop.is_made()
    assert not stop.is_over
    stop.check("this")
