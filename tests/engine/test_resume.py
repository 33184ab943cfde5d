"""A run that was stopped or killed goes on to the weights of one that was not."""

import pytest
from engine_helpers import (
    Jitter,
    Killed,
    Momentum,
    StopAt,
    TapeRecorder,
    adamw,
    asking,
    config,
    convnet,
    hooks_of,
    image_data,
    mlp,
    plugin,
    run,
    sgd,
)

from ringfence.engine.checkpoints.fingerprint import Fingerprint
from ringfence.engine.config import EarlyStopping
from ringfence.engine.schedules import Cosine, Plateau
from ringfence.engine.train import train
from ringfence.engine.trial import try_together
from ringfence.hooks.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {
    "plain": {"schedule": Cosine(warmup_steps=3)},
    "accumulated": {"grad_accum_steps": 2, "checkpoint_every": 3},
    "plateau": {"schedule": Plateau(patience=0, threshold=0.05, warmup_steps=2), "eval_every": 2},
    "early": {"early_stopping": EarlyStopping(patience=2), "epochs": 8, "eval_every": 2},
}


class DieAt(TapeRecorder):
    def __init__(self, at, tape=None):
        super().__init__(tape)
        self.at = at

    def step(self, step, loss, samples):
        super().step(step, loss, samples)
        if step.global_step == self.at:
            raise Killed


def plugins():
    return hooks_of(plugin(Jitter), plugin(Momentum), adamw())


@pytest.mark.parametrize("at", [1, 7, 8])
@pytest.mark.parametrize("name", SETTINGS)
def test_stopped_and_resumed_equals_straight_through(tmp_path, name, at):
    settings = config(**SETTINGS[name])
    straight = TapeRecorder()
    expected = run(convnet(), image_data(), plugins(), settings, observer=straight)

    first = StopAt(at)
    stopped = run(
        convnet(),
        image_data(),
        plugins(),
        settings,
        observer=first,
        checkpoints=tmp_path,
        stop=asking(first.stop),
    )
    assert stopped.steps == min(at, expected.steps)
    # One that is to end does not evaluate any more: it is resumed to do so.
    assert stopped.status == ("interrupted" if at <= expected.steps else expected.status)
    second = TapeRecorder(first.tape)
    resumed = run(
        convnet(), image_data(), plugins(), settings, observer=second, checkpoints=tmp_path, resume=True
    )
    assert resumed.weights_sha256 == expected.weights_sha256
    assert (resumed.status, resumed.steps) == (expected.status, expected.steps)
    assert resumed.final_metrics == expected.final_metrics
    assert (resumed.best_metric, resumed.best_step) == (expected.best_metric, expected.best_step)
    assert second.tape == straight.tape


@pytest.mark.parametrize("at", [0, 7])
def test_killed_and_resumed_equals_straight_through(tmp_path, at):
    settings = config(checkpoint_every=3)
    straight = TapeRecorder()
    expected = run(convnet(), image_data(), plugins(), settings, observer=straight)

    dying = DieAt(at)
    with pytest.raises(Killed):
        run(convnet(), image_data(), plugins(), settings, observer=dying, checkpoints=tmp_path)
    revived = TapeRecorder(dying.tape)
    resumed = run(
        convnet(), image_data(), plugins(), settings, observer=revived, checkpoints=tmp_path, resume=True
    )
    assert revived.rollbacks == [at // 3 * 3]
    assert resumed.weights_sha256 == expected.weights_sha256
    assert revived.tape == straight.tape


def test_finished_run_resumes_to_its_own_end(tmp_path):
    settings = config()
    first = run(mlp(), image_data(), hooks_of(sgd()), settings, checkpoints=tmp_path)
    again = run(mlp(), image_data(), hooks_of(sgd()), settings, checkpoints=tmp_path, resume=True)
    assert (again.status, again.steps, again.steps_per_second) == ("completed", 21, 0)
    assert again.weights_sha256 == first.weights_sha256
    assert again.final_metrics == first.final_metrics


def test_other_job_is_refused_with_the_keys_that_differ(tmp_path):
    run(
        mlp(), image_data(), hooks_of(sgd()), config(epochs=1),
        checkpoints=tmp_path, fingerprint=Fingerprint(values={"batch_size": 8, "seed": 7, "size": (1, 2)}),
    )  # fmt: skip
    with pytest.raises(
        CheckpointError,
        match=r"batch_size: 8 in the checkpoint, 16 in this job\n  lr: not set in the checkpoint, 0.1 in",
    ):
        run(
            mlp(), image_data(), hooks_of(sgd()), config(epochs=1), checkpoints=tmp_path, resume=True,
            fingerprint=Fingerprint(values={"batch_size": 16, "seed": 7, "size": (1, 2), "lr": 0.1}),
        )  # fmt: skip


def test_other_model_is_refused(tmp_path):
    run(mlp(), image_data(), hooks_of(sgd()), config(epochs=1), checkpoints=tmp_path)
    with pytest.raises(CheckpointError, match="is of another model"):
        run(convnet(), image_data(), hooks_of(sgd()), config(epochs=1), checkpoints=tmp_path, resume=True)


def test_resume_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        train(try_together(mlp(), image_data(), config()), hooks_of(sgd()), checkpoints=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="no folder to resume from"):
        train(try_together(mlp(), image_data(), config()), hooks_of(sgd()), resume=True)


def test_new_run_does_not_write_over_an_old_one(tmp_path):
    run(mlp(), image_data(), hooks_of(sgd()), config(epochs=1), checkpoints=tmp_path)
    with pytest.raises(CheckpointError, match="holds the checkpoints of another run"):
        run(mlp(), image_data(), hooks_of(sgd()), config(epochs=1), checkpoints=tmp_path)


def test_damaged_checkpoint_is_passed_over_by_name_and_the_result_is_the_same(tmp_path):
    settings = config()
    expected = run(convnet(), image_data(), plugins(), settings)
    first = StopAt(16)
    run(
        convnet(),
        image_data(),
        plugins(),
        settings,
        observer=first,
        checkpoints=tmp_path,
        stop=asking(first.stop),
    )
    (tmp_path / "step-00000016" / "model.safetensors").write_bytes(b"half a file")
    second = TapeRecorder(first.tape)
    resumed = run(
        convnet(), image_data(), plugins(), settings, observer=second, checkpoints=tmp_path, resume=True
    )
    assert second.rollbacks == [14]
    assert "step-00000016 is damaged: model.safetensors does not match its digest" in second.events[0]
    assert "going back to step-00000014" in second.events[0]
    assert resumed.weights_sha256 == expected.weights_sha256
