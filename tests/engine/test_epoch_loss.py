"""The mean training loss of an epoch, as monitors are shown it."""

import pytest
import torch
from engine_helpers import (
    FAULTS,
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

from ringfence.engine.data import epoch_order
from ringfence.engine.losses import CrossEntropy
from ringfence.engine.progress import EpochLoss
from ringfence.hooks.types import passthrough

pytestmark = pytest.mark.usefixtures("one_thread")

#: Of 50 samples, in batches of 8.
AN_EPOCH = 7
#: What the monitor was shown: step, and the metrics.
SHOWN = {}


class Reader:
    role = "monitor"
    backward = passthrough

    def forward(self, step, metrics):
        SHOWN[step.global_step] = {key: metrics[key] for key in ("train_loss", "epoch") if key in metrics}


class Blind(Reader):
    def forward(self, step):
        SHOWN[step.global_step] = {}


def shown(settings, tape=None, reader=Reader, **more):
    """Return what the monitor is shown in a run, and the losses of its steps, with their samples."""
    SHOWN.clear()
    tape = tape or TapeRecorder()
    more.setdefault("hooks", hooks_of(sgd(), plugin(reader), observer=tape))
    run(mlp(), image_data(), more.pop("hooks"), settings, observer=tape, **more)
    return dict(SHOWN), [value for kind, _, value in tape.tape if kind == "step"]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_is_the_mean_over_all_samples_of_the_epoch(accumulate):
    found, steps = shown(config(grad_accum_steps=accumulate))
    an_epoch = -(-AN_EPOCH // accumulate)
    assert found[an_epoch - 1] == {}
    for epoch in (1, 2):
        losses = steps[(epoch - 1) * an_epoch : epoch * an_epoch]
        mean = sum(loss * samples for loss, samples in losses) / 50
        assert found[epoch * an_epoch] == {"train_loss": pytest.approx(mean, rel=1e-12), "epoch": epoch}
        # The last step of an epoch is short: the mean over steps is another.
        by_steps = sum(loss for loss, _ in losses) / an_epoch
        assert by_steps != pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_what_counts_unequally_is_averaged_by_what_it_counts(accumulate):
    loss = CrossEntropy(class_weights=[0.1, 5.0, 1.0, 2.0])
    found, steps = shown(config(grad_accum_steps=accumulate, loss=loss))
    an_epoch, size = -(-AN_EPOCH // accumulate), 8 * accumulate
    targets = image_data().train.targets[epoch_order(50, 7, 0)].split(size)
    weights = [loss.weight(part) for part in targets]
    losses = [value for value, _ in steps[:an_epoch]]
    mean = sum(value * weight for value, weight in zip(losses, weights, strict=True)) / sum(weights)
    assert found[an_epoch]["train_loss"] == pytest.approx(mean, rel=1e-6)
    by_samples = sum(value * samples for value, samples in steps[:an_epoch]) / 50
    assert by_samples != pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("at", [3, 9, 14])
def test_it_is_the_same_when_the_run_is_resumed_or_goes_back_in_the_middle_of_an_epoch(tmp_path, at):
    settings = config(snapshot_every=4)
    expected, _ = shown(settings)
    stop = StopAt(at)
    shown(settings, tape=stop, stop=asking(stop.stop), checkpoints=tmp_path)
    again, _ = shown(settings, checkpoints=tmp_path, resume=True)
    assert again == {step: metrics for step, metrics in expected.items() if step >= at}
    FAULTS.append(("optim", "backward", at))
    tape = TapeRecorder()
    back, _ = shown(settings, tape=tape)
    assert tape.rollbacks
    assert back == expected


def test_an_epoch_that_was_joined_in_its_middle_is_left_out(tmp_path):
    stop = StopAt(9)
    shown(config(), tape=stop, reader=Blind, stop=asking(stop.stop), checkpoints=tmp_path)
    found, steps = shown(config(epochs=4), checkpoints=tmp_path, resume=True)
    assert {step for step, metrics in found.items() if metrics} == set(range(21, 28))
    # Of the run that went on the tape has the steps from 9 on.
    mean = sum(loss * samples for loss, samples in steps[14 - 9 : 21 - 9]) / 50
    assert found[21] == {"train_loss": pytest.approx(mean), "epoch": 3}


def test_without_a_monitor_that_looks_at_it_no_loss_is_counted(monkeypatch):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(EpochLoss, "plus", fail)
    with pytest.raises(AssertionError):
        shown(config())
    monkeypatch.setattr("ringfence.engine.train._count_loss", fail)
    monkeypatch.setattr("ringfence.engine.session.Session.count_losses", lambda _: None)
    shown(config(), reader=Blind)


def test_a_step_of_which_nothing_counts_takes_no_part():
    counted = EpochLoss().plus([(2.0, 3), (float("nan"), 0), (4.0, 1)])
    assert counted.ended(1, 3) == EpochLoss(3, 3, mean=2.5, epoch=1)
    assert torch.isnan(torch.tensor(EpochLoss().plus([(float("nan"), 1)]).ended(1, 1).mean))
    assert EpochLoss().plus([(float("nan"), 0)]).ended(1, 1).mean is None
