"""``restore_best``: the run ends with the weights that were judged best, which are tested and left."""

import json
import shutil

import pytest
import torch
from engine_helpers import TapeRecorder, asking, config, hooks_of, image_data, mlp, run, sgd
from test_final_evaluation import KeepsTest, held_out

from ringfence.engine.config import EarlyStopping
from ringfence.engine.weights import weights_sha256
from ringfence.hooks.errors import CheckpointError, CutOffError, RunAbortedError

pytestmark = pytest.mark.usefixtures("one_thread")

#: With these the metric goes up and down, and the last evaluation is not the best.
SETTINGS = {
    "epochs": 6,
    "eval_every": 3,
    "checkpoint_every": 100,
    "restore_best": True,
    "keep_checkpoints": 1,
}


def trained(folder, observer=None, **changes):
    model = mlp()
    result = run(
        model,
        held_out(),
        hooks_of(sgd()),
        config(**{**SETTINGS, **changes}),
        observer=observer,
        checkpoints=folder,
    )
    return model, result


def stopped_after(steps):
    """Return the digest of the weights of a run without any of it, after so many steps."""
    model = mlp()
    run(model, held_out(), hooks_of(sgd()), config(steps=steps, eval_every=100))
    return weights_sha256(model)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def test_a_run_ends_with_its_best_weights_and_figures(folder):
    observer = KeepsTest()
    model, result = trained(folder, observer)
    evaluated = {step: told[1] for kind, step, told in observer.tape if kind == "evaluated"}
    assert result.best_step < result.steps == 30
    assert result.final_metrics_step == result.best_step
    assert result.final_metrics == evaluated[result.best_step] != evaluated[30]
    assert result.weights_sha256 == weights_sha256(model) == stopped_after(result.best_step)
    assert f"the weights are the best again, those of step {result.best_step}" in observer.events
    assert (result.weights_from, result.checkpoint) == (
        folder / f"step-{result.best_step:08d}",
        folder / "step-00000030",
    )
    # Those are what is tested.
    ((step, _, metrics),) = observer.test
    assert (step, metrics) == (result.best_step, result.test_metrics)
    # The control: without it the last are left and tested.
    shutil.rmtree(folder)
    _, last = trained(folder, restore_best=False)
    assert last.weights_sha256 == stopped_after(30)
    assert (last.weights_from, last.best_metric) == (last.checkpoint, result.best_metric)
    assert last.test_metrics != result.test_metrics


def test_it_holds_where_early_stopping_ends_the_run(folder):
    observer = KeepsTest()
    _, result = trained(folder, observer, epochs=50, early_stopping=EarlyStopping(patience=3))
    assert (result.status, result.steps) == ("stopped_early", result.best_step + 9)
    assert result.weights_sha256 == stopped_after(result.best_step)
    assert observer.test[0][0] == result.best_step


def test_where_the_last_is_the_best_nothing_is_restored(folder):
    observer = TapeRecorder()
    _, result = trained(folder, observer, epochs=None, steps=3)
    assert (result.best_step, result.weights_from) == (3, folder / "step-00000003")
    assert not any("best again" in event for event in observer.events)


def test_it_changes_no_step_and_a_longer_run_goes_on_from_the_last(folder):
    trained(folder)
    observer = TapeRecorder()
    model, again = mlp(), config(**{**SETTINGS, "epochs": 8, "restore_best": False})
    more = run(model, held_out(), hooks_of(sgd()), again, observer=observer, checkpoints=folder, resume=True)
    assert (more.steps, more.weights_sha256) == (40, stopped_after(40))


def test_a_run_that_is_stopped_in_its_test_is_left_with_its_last_weights(folder):
    observer = KeepsTest()
    model = mlp()
    asked = asking(lambda: bool(observer.predictions))
    settings = config(**SETTINGS, eval_batch_size=8)
    result = run(
        model, held_out(), hooks_of(sgd()), settings, observer=observer, checkpoints=folder, stop=asked
    )
    assert (result.status, result.weights_from) == ("interrupted", folder / "step-00000030")
    assert result.weights_sha256 == weights_sha256(model) == stopped_after(30)
    again = KeepsTest()
    resumed = run(
        mlp(), held_out(), hooks_of(sgd()), settings, observer=again, checkpoints=folder, resume=True
    )
    assert (resumed.status, resumed.weights_sha256) == ("completed", stopped_after(resumed.best_step))


class CutsOff:
    """A driver that is cut off in what it does at the end."""

    name = "cuts off"

    def between_steps(self, run):
        pass

    def beside(self):
        return None

    def trained(self, run):
        raise CutOffError("the end")

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_a_run_that_is_cut_off_once_it_is_tested_is_left_with_its_last_weights(folder):
    model = mlp()
    result = run(
        model, held_out(), hooks_of(sgd()), config(**SETTINGS), checkpoints=folder, drivers=[CutsOff()]
    )
    assert (result.status, result.test_metrics) == ("interrupted", {})
    assert (result.weights_from, result.final_metrics_step) == (result.checkpoint, 30)
    assert result.weights_sha256 == weights_sha256(model) == stopped_after(30)


class Damages(TapeRecorder):
    """Damages the best checkpoint once the last one is written."""

    def __init__(self, folder, keep):
        super().__init__()
        self.folder, self.keep = folder, keep

    def checkpointed(self, step, path):
        super().checkpointed(step, path)
        if step == 30:
            for each in self.folder.iterdir():
                if each.name != "best" and each.name not in self.keep:
                    file = each / "model.safetensors"
                    data = bytearray(file.read_bytes())
                    data[-1] ^= 1
                    file.unlink()
                    file.write_bytes(data)


def test_damaged_weights_are_told_and_the_next_best_taken_or_the_run_ended(folder):
    observer = Damages(folder, keep={"step-00000030"})
    _, result = trained(folder, observer)
    assert result.weights_sha256 == stopped_after(30)
    assert any("is damaged" in event and "taking step-00000030" in event for event in observer.events)
    shutil.rmtree(folder)
    with pytest.raises((CheckpointError, RunAbortedError), match="the best weights cannot be restored"):
        trained(folder, Damages(folder, keep=()))


def test_a_best_step_that_was_not_kept_is_told(folder):
    trained(folder, restore_best=False, checkpoint_every=5, eval_every=1, keep_checkpoints=9)
    observer = TapeRecorder()
    settings = config(**{**SETTINGS, "epochs": 7, "eval_every": 1})
    result = run(
        mlp(), held_out(), hooks_of(sgd()), settings, observer=observer, checkpoints=folder, resume=True
    )
    manifest = json.loads((result.weights_from / "state.json").read_text())
    (said,) = [event for event in observer.events if "best again" in event]
    assert said.startswith(f"the weights are the best again, those of step {manifest['step']}")
    assert (f": of step {result.best_step}, which" in said) == (manifest["step"] != result.best_step)


def test_without_a_folder_it_is_refused():
    with pytest.raises(CheckpointError, match="restore_best needs a folder for checkpoints"):
        run(mlp(), image_data(), hooks_of(sgd()), config(restore_best=True))


def test_without_a_number_the_last_weights_stay_and_that_is_told(folder):
    class Nan(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = mlp()

        def forward(self, inputs):
            outputs = self.layer(inputs)
            return outputs if self.training else outputs * float("nan")

    observer = TapeRecorder()
    settings = config(**SETTINGS)
    result = run(Nan(), held_out(), hooks_of(sgd()), settings, observer=observer, checkpoints=folder)
    assert result.weights_from == folder / "step-00000030"
    assert any("none is the best: the weights are the last" in event for event in observer.events)
