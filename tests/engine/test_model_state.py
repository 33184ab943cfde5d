"""What a model keeps beside its parameters comes back: when a run is rolled back, and when it is resumed."""

import pytest
import torch
from engine_helpers import (
    FAULTS,
    Sam,
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
    same_weights,
    sgd,
)
from torch import nn

from ringfence.engine.buffers import copy_buffers, restore_buffers
from ringfence.engine.checkpoints.retention import list_checkpoints
from ringfence.engine.data import Normalise, Plan, batches
from ringfence.engine.extra_state import MAX_BYTES, copy_extra_state
from ringfence.engine.trial import Tried
from ringfence.hooks.errors import CheckpointError, DataError, RunAbortedError


class Warms(nn.Module):
    """Scales its outputs by how often it was called: state of its own, which it gives and takes."""

    def __init__(self):
        super().__init__()
        self.body = mlp()
        self.calls = 0

    def forward(self, inputs):
        if self.training:
            self.calls += 1
        return self.body(inputs) * (1 + self.calls / 10)


class Gives(Warms):
    def get_extra_state(self):
        return {"calls": self.calls, "half": torch.tensor(self.calls / 2)}

    def set_extra_state(self, state):
        assert state["half"].item() == state["calls"] / 2
        self.calls = state["calls"]


def resumed(cls, folder):
    stop = StopAt(7)
    settings = config(snapshot_every=4, epochs=2)
    run(
        cls(),
        image_data(),
        hooks_of(adamw()),
        settings,
        observer=stop,
        checkpoints=folder,
        stop=asking(stop.stop),
    )
    model = cls()
    run(model, image_data(), hooks_of(adamw()), settings, checkpoints=folder, resume=True)
    return model


def straight(cls, *faults):
    FAULTS.extend(faults)
    model = cls()
    run(model, image_data(), hooks_of(adamw()), config(snapshot_every=4, epochs=2))
    assert FAULTS == []
    return model


def test_extra_state_comes_back_when_a_run_is_rolled_back_and_resumed(tmp_path):
    expected = straight(Gives)
    assert same_weights(straight(Gives, ("optim", "backward", 6)).body, expected.body)
    assert same_weights(resumed(Gives, tmp_path / "gives").body, expected.body)
    # The control: what is not given is lost, which is what the trial tells.
    assert not same_weights(resumed(Warms, tmp_path / "keeps").body, straight(Warms).body)


def test_extra_state_is_small():
    class Large(Gives):
        def get_extra_state(self):
            return torch.zeros(MAX_BYTES + 1, dtype=torch.uint8)

    with pytest.raises(DataError, match=r"get_extra_state.* tensors of 16 MiB, more than 16; make them"):
        copy_extra_state(Large())


def test_extra_state_of_all_modules_together_is_small():
    class Large(Gives):
        def get_extra_state(self):
            return torch.zeros(MAX_BYTES - 1024, dtype=torch.uint8)

    copy_extra_state(nn.Sequential(Large(), Large(), Large()))
    with pytest.raises(DataError, match=r"'3' and of the modules before it returned 63 MiB together, more"):
        copy_extra_state(nn.Sequential(Large(), Large(), Large(), Large()))


def test_a_model_that_does_not_take_its_state_back_keeps_no_checkpoint_from_the_disk(tmp_path):
    class Breaks(Gives):
        """Raises in the middle of a run, and again when it is to be what it was."""

        def forward(self, inputs):
            outputs = super().forward(inputs)
            if self.training and self.calls == 8:
                raise ArithmeticError("too far")
            return outputs

        def set_extra_state(self, state):
            if self.calls >= 8:
                raise ValueError("no way back")
            super().set_extra_state(state)

    with pytest.raises(RunAbortedError, match=r"too far.*no way back(.|\n)*go on with") as caught:
        run(
            Breaks(),
            image_data(),
            hooks_of(adamw()),
            config(snapshot_every=3, epochs=2),
            checkpoints=tmp_path,
        )
    assert str(list_checkpoints(tmp_path)[-1]) in str(caught.value)


class Queue(nn.Module):
    """Keeps the outputs of all batches in a buffer, which grows, and takes what it holds into account."""

    def __init__(self):
        super().__init__()
        self.body = mlp()
        self.register_buffer("queue", torch.zeros(0, 4))

    def forward(self, inputs):
        outputs = self.body(inputs)
        if self.training:
            self.queue = torch.cat([self.queue, outputs.detach()])
            outputs = outputs + self.queue.mean(0)
        return outputs


def test_a_buffer_that_grows_is_rolled_back_and_told_once(tmp_path):
    expected, observer = straight(Queue), TapeRecorder()
    FAULTS.append(("optim", "backward", 6))
    model = Queue()
    run(
        model,
        image_data(),
        hooks_of(adamw()),
        config(snapshot_every=4, epochs=2),
        observer=observer,
        checkpoints=tmp_path,
    )
    assert same_weights(model, expected)
    assert len([event for event in observer.events if "buffer 'queue'" in event]) == 1
    with pytest.raises(CheckpointError, match=r"'queue' is \(100, 4\).* there and \(0, 4\)"):
        run(Queue(), image_data(), hooks_of(adamw()), config(epochs=3), checkpoints=tmp_path, resume=True)


class SharedQueue(Queue):
    """As that, with a second module that has the same buffer, and reads it."""

    def __init__(self):
        super().__init__()
        self.reader = nn.Module()
        self.reader.register_buffer("seen", self.queue)

    def forward(self, inputs):
        outputs = super().forward(inputs)
        if self.training:
            self.reader.seen = self.queue
        return outputs + len(self.reader.seen) / 100


def test_a_buffer_that_modules_share_and_replace_is_put_back_under_each_name():
    model = SharedQueue()
    saved = copy_buffers(model)
    model(torch.ones(2, 1, 8, 8))
    restore_buffers(model, saved)
    assert model.reader.seen is model.queue
    assert model.queue.shape == (0, 4)


def test_a_shared_buffer_that_grows_is_rolled_back():
    expected, model = straight(SharedQueue), SharedQueue()
    FAULTS.append(("optim", "backward", 6))
    run(model, image_data(), hooks_of(adamw()), config(snapshot_every=4, epochs=2))
    assert same_weights(model, expected)
    assert model.reader.seen is model.queue


def test_a_shared_buffer_that_is_replaced_by_one_of_its_shape_is_resumed(tmp_path):
    assert same_weights(resumed(SharedMean, tmp_path), straight(SharedMean))


class SharedMean(nn.Module):
    """Replaces a buffer that two of its modules have, in each step, by one of the same shape."""

    def __init__(self):
        super().__init__()
        self.body = mlp()
        self.register_buffer("mean", torch.zeros(4))
        self.reader = nn.Module()
        self.reader.register_buffer("seen", self.mean)

    def forward(self, inputs):
        outputs = self.body(inputs)
        if self.training:
            self.mean = self.reader.seen = 0.9 * self.mean + outputs.detach().mean(0)
        return outputs + self.reader.seen


class Parting(SharedMean):
    """Replaces it in one of the modules only, which from then on have one each."""

    def forward(self, inputs):
        outputs = self.body(inputs)
        if self.training:
            self.mean = 0.9 * self.mean + outputs.detach().mean(0)
        return outputs + self.mean - self.reader.seen


def test_a_shared_buffer_that_one_module_replaces_is_shared_again_after_a_trial_and_a_roll_back():
    expected, model = straight(Parting), Parting()
    assert model.reader.seen is model.mean
    FAULTS.append(("optim", "backward", 2))
    run(model, image_data(), hooks_of(adamw()), config(snapshot_every=4, epochs=2))
    assert same_weights(model, expected)
    assert model.reader.seen.eq(0).all()


class Late(nn.Module):
    """Grows a buffer later than in its first passes."""

    def __init__(self):
        super().__init__()
        self.body = mlp()
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("mask", torch.ones(1))

    def forward(self, inputs):
        self.passes += self.training
        if self.passes == 5:
            self.mask = torch.ones(4)
        return self.body(inputs) * self.mask


def test_a_buffer_that_changes_later_is_told_at_the_next_snapshot():
    observer = TapeRecorder()
    run(Late(), image_data(), hooks_of(sgd()), config(epochs=1, snapshot_every=3), observer=observer)
    assert len([event for event in observer.events if "buffer 'mask'" in event]) == 1
    assert not [event for event in observer.events if "passes" in event]


def test_buffers_that_came_went_or_were_replaced_are_put_back():
    model = Queue()
    model.register_buffer("gone", torch.ones(2))
    model.register_buffer("empty", None)
    model.register_buffer("also", model.gone)
    model.register_buffer("zero", torch.tensor(-0.0))
    model.register_buffer("constant", torch.ones(1).expand(3))
    saved = copy_buffers(model)
    model.queue = torch.ones(3, 4, dtype=torch.float64)
    model.gone = None
    model.also = None
    model.zero = torch.tensor(0.0)
    model.register_buffer("new", torch.ones(1))
    restore_buffers(model, saved)
    assert model.queue.shape == (0, 4)
    assert model.queue.dtype == torch.float32
    assert torch.equal(model.gone, torch.ones(2))
    assert torch.signbit(model.zero)
    assert not hasattr(model, "new")
    assert model.empty is None


class Counted(nn.Module):
    """Counts its passes where nobody puts them back."""

    def __init__(self):
        super().__init__()
        self.body = convnet()

    def forward(self, inputs):
        PASSES.append(len(inputs))
        return self.body(inputs)


PASSES: list[int] = []


def test_batch_norm_counts_each_batch_once_however_many_passes_there_are():
    """With weights that stay as they are, its statistics are those of one look at each batch."""
    data, ascended, plain = image_data(48, 8), Counted(), convnet()
    PASSES.clear()
    run(
        ascended,
        data,
        hooks_of(plugin(Sam, "optim", lr=0.0, rho=0.0)),
        config(steps=6),
        tried=Tried(),
    )
    assert PASSES.count(8) >= 12, "no second pass, so that this shows nothing"
    plain.train()
    normalise = Normalise(data, torch.device("cpu"))
    stream = batches(data.train, Plan(48, 8), 7, first_step=0, steps_total=6, lr_factor=lambda _: 1.0)
    for batch, _ in stream:
        plain(normalise(batch.inputs))
    assert plain[1].num_batches_tracked == 6
    assert same_weights(ascended.body, plain)
