"""Validation data judge while a run goes on; the test data are looked at once, at the end."""

from dataclasses import replace

import pytest
import torch
from engine_helpers import StopAt, TapeRecorder, asking, config, convnet, hooks_of, image_data, mlp, run, sgd
from torch import nn

from ringfence.engine.config import EarlyStopping
from ringfence.engine.data import Data, Dataset
from ringfence.hooks.errors import DataError

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN, VALIDATION = torch.tensor([i for i in range(50) if i % 5]), torch.arange(0, 50, 5)


def marked() -> Data:
    """``image_data`` with the part that a sample is of in its first pixel."""
    data = image_data()
    for inputs, rows, grey in (
        (data.train.inputs, TRAIN, 0),
        (data.train.inputs, VALIDATION, 100),
        (data.test.inputs, slice(None), 200),
    ):
        inputs[rows, 0, 0, 0] = grey
    return data


def held_out() -> Data:
    """``marked`` with every fifth training sample held out, in the memory of all of them."""
    data = marked()
    return replace(
        data, train=replace(data.train, rows=TRAIN), validation=replace(data.train, rows=VALIDATION)
    )


def copied() -> Data:
    """The same in memory of its own."""

    def take(rows: torch.Tensor) -> Dataset:
        return replace(data.train, inputs=data.train.inputs[rows], targets=data.train.targets[rows])

    data = marked()
    return replace(data, train=take(TRAIN), validation=take(VALIDATION))


class Looks(nn.Module):
    """Notes in evaluation which part each sample is of that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = mlp()
        self.seen: list[str] = []

    def forward(self, inputs):
        if not self.training:
            greys = (inputs[:, 0, 0, 0] * 0.3 + 0.4) * 255
            self.seen += [
                {0: "train", 100: "validation", 200: "test"}[round(grey)] for grey in greys.tolist()
            ]
        return self.layer(inputs)


class KeepsTest(TapeRecorder):
    """Keeps what is told of the test at the end."""

    def __init__(self, wants=True, tape=None) -> None:
        super().__init__(tape)
        self.wants, self.test, self.predictions = wants, [], []

    def wants_predictions(self):
        return self.wants

    def predicted(self, part, batch, outputs):
        self.predictions.append((part, batch.indices.clone(), batch.targets.clone(), outputs.clone()))

    def tested(self, step, epoch, metrics):
        self.test.append((step, epoch, dict(metrics)))


def looks_at(data: Data, observer: TapeRecorder, **more):
    """Train; return the result, and which part each look of an evaluation was at, after the trial."""
    model = Looks()
    begun = observer.started

    def started(info):
        begun(info)
        model.seen.clear()

    observer.started = started
    result = run(model, data, hooks_of(sgd()), config(**more.pop("settings", {})), observer=observer, **more)
    return result, model.seen


def test_samples_held_out_are_not_trained_on_and_share_the_memory_of_the_others():
    ours, plain = convnet(), convnet()
    result, expected = (
        run(m, d, hooks_of(sgd()), config()) for m, d in ((ours, held_out()), (plain, copied()))
    )
    assert result == replace(expected, seconds=result.seconds, steps_per_second=result.steps_per_second)
    assert result.steps == 3 * 5
    # The control: with the ten that are held out there are more steps, and other weights.
    whole = run(convnet(), marked(), hooks_of(sgd()), config())
    assert (whole.steps, whole.weights_sha256 != result.weights_sha256) == (3 * 7, True)


def test_validation_judges_and_the_test_data_are_looked_at_once_at_the_end():
    observer = KeepsTest()
    result, seen = looks_at(held_out(), observer)
    assert seen == ["validation"] * 10 * 3 + ["test"] * 20
    assert (result.judged_by, result.final_metrics) == ("validation", observer.tape[-1][2][1])
    assert observer.test == [(15, 3, result.test_metrics)]
    assert result.test_metrics.keys() == {"loss", "accuracy"}
    ((part, indices, targets, outputs),) = observer.predictions
    data = held_out()
    assert part == "test"
    assert torch.equal(indices, torch.arange(20))
    assert torch.equal(targets, data.test.targets)
    assert (outputs.argmax(1) == targets).float().mean().item() == pytest.approx(
        result.test_metrics["accuracy"]
    )


def test_without_validation_data_the_test_data_judge_and_no_second_look_is_taken():
    observer = KeepsTest(wants=False)
    result, seen = looks_at(marked(), observer)
    assert seen == ["test"] * 20 * 3
    assert (result.judged_by, result.test_metrics) == ("test", result.final_metrics)
    assert not observer.test
    # Nor are its figures told twice where somebody wants the predictions.
    observer = KeepsTest()
    result, seen = looks_at(marked(), observer)
    assert seen == ["test"] * 20 * 4
    assert (result.test_metrics, observer.test) == (result.final_metrics, [])
    assert [part for part, *_ in observer.predictions] == ["test"]


def test_without_test_data_the_last_figures_are_those_of_the_validation():
    observer = KeepsTest()
    result, seen = looks_at(replace(held_out(), test=None), observer)
    assert seen == ["validation"] * 10 * 4
    assert (result.test_metrics, observer.test) == ({}, [])
    assert [(part, indices.tolist()) for part, indices, *_ in observer.predictions] == [
        ("validation", VALIDATION.tolist())
    ]


def test_a_run_that_is_interrupted_does_not_look_and_one_that_is_resumed_looks_once(tmp_path):
    first = StopAt(7)
    stopped, seen = looks_at(held_out(), first, checkpoints=tmp_path / "checkpoints", stop=asking(first.stop))
    assert (stopped.status, stopped.test_metrics, seen) == ("interrupted", {}, ["validation"] * 10)
    second = KeepsTest(tape=first.tape)
    resumed, seen = looks_at(held_out(), second, checkpoints=tmp_path / "checkpoints", resume=True)
    assert seen == ["validation"] * 10 * 2 + ["test"] * 20
    straight, _ = looks_at(held_out(), KeepsTest())
    assert (resumed.test_metrics, resumed.weights_sha256) == (straight.test_metrics, straight.weights_sha256)


def test_a_run_that_is_stopped_in_its_test_makes_it_when_it_is_resumed(tmp_path):
    observer = KeepsTest()
    asked = asking(lambda: bool(observer.predictions))
    settings = {"eval_batch_size": 8}
    result, seen = looks_at(
        held_out(), observer, settings=settings, checkpoints=tmp_path / "checkpoints", stop=asked
    )
    assert (result.status, result.steps, result.test_metrics) == ("interrupted", 15, {})
    assert (seen[-9:], observer.test) == (["validation", *["test"] * 8], [])
    again = KeepsTest(tape=observer.tape)
    resumed, seen = looks_at(
        held_out(), again, settings=settings, checkpoints=tmp_path / "checkpoints", resume=True
    )
    assert (resumed.status, seen) == ("completed", ["test"] * 20)
    assert again.test == [(15, 3, resumed.test_metrics)]


def test_early_stopping_and_the_best_step_follow_the_validation_data():
    settings = config(epochs=20, early_stopping=EarlyStopping(patience=2))
    observer = TapeRecorder()
    result = run(mlp(), held_out(), hooks_of(sgd()), settings, observer=observer)
    values = [told[1]["accuracy"] for kind, _, told in observer.tape if kind == "evaluated"]
    assert result.status == "stopped_early"
    assert result.best_metric == max(values)
    # With the same training samples and the test data as judges it ends elsewhere.
    other = run(mlp(), replace(held_out(), validation=None), hooks_of(sgd()), settings)
    assert (other.best_step, other.best_metric) != (result.best_step, result.best_metric)


def test_data_without_anything_to_judge_by_and_rows_that_there_are_not_are_refused():
    data = image_data()
    with pytest.raises(DataError, match="neither validation nor test data"):
        Data(data.train, None)
    with pytest.raises(DataError, match="the validation data"):
        Data(data.train, None, validation=replace(data.test, num_classes=9))
    for rows, said in (
        (torch.tensor([0, 50]), "rows reach from 0 to 50, but there are 50 inputs"),
        (torch.tensor([0.0]), "rows are torch.float32"),
        (torch.arange(0), r"of shape \(0,\)"),
    ):
        with pytest.raises(DataError, match=said):
            replace(data.train, rows=rows)
