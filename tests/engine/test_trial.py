"""The trial before the start: what cannot work is told, with the user's line, and nothing is left of it."""

import random

import numpy as np
import pytest
import torch
from engine_helpers import (
    TapeRecorder,
    convnet,
    hooks_of,
    image_data,
    linear_regressor,
    mlp,
    regression_data,
    run,
    same_weights,
    sgd,
)
from engine_helpers import config as settings
from torch import nn

from ringfence.engine.attributes import MAX_BYTES
from ringfence.engine.data import Data, Dataset
from ringfence.engine.losses import MSE
from ringfence.engine.setup import Setup
from ringfence.engine.trial import try_out
from ringfence.hooks.errors import DataError

CPU = torch.device("cpu")


def tried(model, data=None, *, batch_size=8, eval_batch_size=8):
    data = data or image_data()
    judged = {"loss": MSE(), "metric": "mse"} if data.train.num_classes is None else {}
    sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size}
    return try_out(Setup.of(model, data, settings(**sizes, **judged)))


def refused(model, data=None, **sizes):
    with pytest.raises(DataError) as caught:
        tried(model, data, **sizes)
    return str(caught.value)


def line(function, after):
    return f"{__file__}:{function.__code__.co_firstlineno + after}"


class Own(nn.Module):
    """A network of the user's; what is derived from it goes wrong in one way."""

    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, inputs):
        return self.body(inputs)


class WithoutGraph(Own):
    @torch.no_grad()
    def forward(self, inputs):
        return self.body(inputs)


class Detached(Own):
    def forward(self, inputs):
        return self.body(inputs).detach()


class Unrelated(Own):
    def __init__(self):
        super().__init__()
        self.hidden = torch.zeros(4, requires_grad=True)

    def forward(self, inputs):
        return self.hidden.expand(len(inputs), 4) * 1


class PairInEval(Own):
    def forward(self, inputs):
        outputs = self.body(inputs)
        return outputs if self.training else {"one": outputs, "other": outputs}


class ClassesInEval(Own):
    def forward(self, inputs):
        outputs = self.body(inputs)
        return outputs if self.training else outputs.argmax(1)


class RaisesInEval(Own):
    def forward(self, inputs):
        if not self.training:
            raise NotImplementedError("no inference yet")
        return self.body(inputs)


class Doubles(Own):
    def forward(self, inputs):
        return self.body(inputs.double())


class CustomError(Exception):
    """Not one of Python's."""


class RaisesCustom(Own):
    def forward(self, inputs):
        raise CustomError("the user's own")


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs):
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.no_such_method()


class FailsBackward(Own):
    def forward(self, inputs):
        return Broken.apply(self.body(inputs))


class Squeezed(nn.Module):
    """One output for each sample, and none for a batch of one; in evaluation only if told so."""

    def __init__(self, *, always):
        super().__init__()
        self.layer, self.always = nn.Linear(6, 1), always

    def forward(self, inputs):
        outputs = self.layer(inputs)
        return outputs.squeeze() if self.always or not self.training else outputs.squeeze(1)


def numbers(train=40, test=17):
    """A regression with targets (N,)."""
    inputs = torch.randn(train + test, 6)
    targets = inputs.sum(1)
    return Data(
        Dataset(inputs[:train], targets[:train], None), Dataset(inputs[train:], targets[train:], None)
    )


@pytest.mark.parametrize(
    ("make", "words", "place"),
    [
        (WithoutGraph, "the model's outputs have no gradient", line(WithoutGraph.forward.__wrapped__, 0)),
        (Detached, "the model's outputs have no gradient", line(Detached.forward, 0)),
        (Unrelated, "none of the model's parameters got a gradient", line(Unrelated.forward, 0)),
        (
            PairInEval,
            "in evaluation mode the model returned a dict",
            line(PairInEval.forward, 0),
        ),
        (
            ClassesInEval,
            "in evaluation mode the model returned dtype torch.int64",
            line(ClassesInEval.forward, 0),
        ),
        (
            RaisesInEval,
            "batch of 8 in evaluation mode, with inputs of shape (8, 1, 8, 8): NotImplementedError: no",
            line(RaisesInEval.forward, 2),
        ),
        (
            RaisesCustom,
            "in training mode, with inputs of shape (8, 1, 8, 8): CustomError: ",
            line(RaisesCustom.forward, 1),
        ),
        (
            FailsBackward,
            "the backward pass through the model failed: AttributeError",
            line(Broken.backward, 2),
        ),
    ],
)
def test_what_cannot_work_is_told_with_the_users_line(make, words, place):
    message = refused(make())
    assert words in message
    assert place in message


def test_what_torch_says_of_dtypes_is_told_without_advice_on_shapes():
    message = refused(Doubles())
    assert "RuntimeError: mat1 and mat2 must have the same dtype" in message
    assert "choose a model" not in message
    assert message.endswith(
        f"; at {line(Doubles.forward, 1)}, in Doubles.forward: return self.body(inputs.double())"
    )


@pytest.mark.parametrize(
    ("always", "data", "message"),
    [
        (True, numbers(train=41), "the model returned shape () for a batch of 1; loss 'mse' needs (1,)"),
        (
            False,
            numbers(),
            "in evaluation mode the model returned shape () for a batch of 1; loss 'mse' needs (1,)",
        ),
    ],
)
def test_a_last_batch_of_one_sample_is_tried(always, data, message):
    assert message in refused(Squeezed(always=always), data)
    # Batches of other sizes are fine.
    tried(Squeezed(always=always), data, batch_size=7, eval_batch_size=5)


def test_outputs_that_would_be_spread_over_the_targets_are_told():
    data = numbers()
    message = refused(nn.Sequential(nn.Linear(6, 1)), data)
    assert "the model returned shape (8, 1) for a batch of 8; loss 'mse' needs (8,)" in message


class Sizes(Own):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def forward(self, inputs):
        SEEN.add((self.training, len(inputs)))
        return self.body(inputs)


SEEN: set[tuple[bool, int]] = set()


def test_batches_of_every_size_of_the_run_are_tried():
    SEEN.clear()
    tried(Sizes(), image_data(50, 20), batch_size=8, eval_batch_size=6)
    assert {(True, 8), (True, 2), (False, 6), (False, 2)} == SEEN


class Stateful(nn.Module):
    """Has all that a module can keep, and changes it with each pass, in either mode."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm2d(1), nn.Dropout(0.3), nn.Linear(64, 4)
        self.embed = nn.Embedding(3, 4, max_norm=0.1)
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(0))
        self.register_buffer("zero", torch.tensor(-0.0))
        self.count, self.history, self.average = 0, [1, 2], torch.zeros(2)
        self.kept = [self.history]
        self.given = 0

    def forward(self, inputs):
        self.passes += 1
        self.seen = torch.cat([self.seen, torch.ones(len(inputs))])
        self.zero = self.zero * -1
        self.count += 1
        self.history.append(random.random() + np.random.rand())  # noqa: NPY002, S311
        self.average += 1
        self.given += 1
        self.last_outputs = self.last(self.drop(self.norm(inputs)).flatten(1))
        self.never_there_before = 1
        return self.last_outputs + self.embed(torch.zeros(len(inputs), dtype=torch.long))

    def get_extra_state(self):
        return {"given": self.given}

    def set_extra_state(self, state):
        self.given = state["given"]


def everything(model):
    attributes = {key: value for key, value in vars(model).items() if not key.startswith("_")}
    generators = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    tensors = {
        name: (t.shape, t.numpy().tobytes()) for name, t in model.state_dict().items() if hasattr(t, "shape")
    }
    gradients = [parameter.grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    return repr((attributes, generators, tensors, gradients, modes))


def test_nothing_is_left_of_the_trial():
    torch.manual_seed(3)
    model = Stateful()
    setup = Setup.of(model, image_data(), settings())
    model.drop.eval()
    model.norm.train()
    before, history = everything(model), model.history
    try_out(setup)
    assert everything(model) == before
    assert model.history is history, "another list that other objects do not hold"
    # The control: a pass leaves all of that.
    model(torch.zeros(2, 1, 8, 8)).sum().backward()
    after = everything(model)
    assert after != before
    assert "never_there_before" in after


def test_the_weights_of_a_run_are_those_of_a_run_without_a_trial():
    from ringfence.engine.trial import Tried

    one, two = convnet(), convnet()
    run(one, image_data(), hooks_of(sgd()), settings())
    run(two, image_data(), hooks_of(sgd()), settings(), tried=Tried())
    assert same_weights(one, two)


class Counts(Own):
    """Draws from what it counts; in a list and in an array as well."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.body.table = np.zeros(2)
        self.name = "constant"

    def forward(self, inputs):
        self.calls += 1
        self.body.table[0] += 1
        return self.body(inputs)


class Gives(Counts):
    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def test_state_that_nobody_saves_is_told_by_name():
    (sentence,) = tried(Counts()).told
    assert "attribute 'calls' of the model (Counts)" in sentence
    assert "attribute 'table' of module 'body' (Sequential)" in sentence
    assert "constant" not in sentence
    assert "make it a buffer" in sentence
    (sentence,) = tried(Gives()).told
    assert "'calls'" not in sentence


class Holds(Own):
    """Counts in an array, and gives lists new text that says the same."""

    def __init__(self):
        super().__init__()
        self.array = np.zeros(2)
        self.words = ["same"] * 3
        self.heap = torch.zeros(MAX_BYTES // 4 + 1)

    def forward(self, inputs):
        self.array += 1
        self.heap += 1
        self.words = [str(b"same", "ascii") for _ in range(3)]
        return super().forward(inputs)


def test_attributes_are_told_by_what_they_hold_and_arrays_are_put_back():
    model = Holds()
    (sentence,) = tried(model).told
    assert "'array'" in sentence
    assert "'words'" not in sentence
    assert "'heap'" not in sentence  # so large a tensor is data
    assert model.array.tolist() == [0.0, 0.0]


class GivesTheWrong(Gives):
    def get_extra_state(self):
        return {"calls": object()}


def test_extra_state_that_cannot_be_saved_is_refused():
    message = refused(GivesTheWrong())
    assert "get_extra_state() of GivesTheWrong '' returned what cannot be saved" in message
    assert "state['calls'] is of type object" in message


class Grows(Own):
    def __init__(self):
        super().__init__()
        self.register_buffer("queue", torch.zeros(0, 4))

    def forward(self, inputs):
        outputs = self.body(inputs)
        self.queue = torch.cat([self.queue, outputs.detach()])
        return outputs


class Idle(Own):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(3, 3)


def test_a_buffer_that_grows_is_told_by_name():
    (sentence,) = tried(Grows()).told
    assert "buffer 'queue' comes, goes, or changes its shape" in sentence


def test_parameters_without_a_gradient_are_told_and_no_fault():
    (sentence,) = tried(Idle()).told
    assert "2 of 6 parameters" in sentence
    assert "unused.weight, unused.bias" in sentence
    assert tried(linear_regressor(), regression_data()).told == ()


def test_what_is_told_reaches_the_record():
    observer = TapeRecorder()
    run(Counts(), image_data(), hooks_of(sgd()), settings(steps=2), observer=observer)
    assert any("'calls' of the model (Counts)" in event for event in observer.events)


def test_modules_that_take_their_shape_from_the_first_batch_can_be_trained():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(4))
    assert tried(model).told == ()
    result = run(model, image_data(), hooks_of(sgd()), settings(steps=3))
    assert result.status == "completed"


class Cut(nn.Module):
    """An embedding whose rows are shortened whenever they are looked up, in evaluation too."""

    def __init__(self, max_norm):
        super().__init__()
        torch.manual_seed(5)
        self.embed, self.last = nn.Embedding(30, 4, max_norm=max_norm), nn.Linear(4, 4)
        self.register_buffer("looked", torch.zeros(()))

    def forward(self, inputs):
        self.looked += 1
        return self.last(self.embed(inputs[:, 0].long()))


def table(train=40, test=24):
    """Rows 0 to 9 to train on, 10 to 29 to test on."""
    inputs = torch.cat([torch.arange(train) % 10, 10 + torch.arange(test) % 20]).float()[:, None]
    targets = torch.arange(train + test) % 4
    return Data(Dataset(inputs[:train], targets[:train], 4), Dataset(inputs[train:], targets[train:], 4))


def test_parameters_that_evaluation_changes_are_found_and_put_back():
    assert tried(Cut(0.5), table()).unsteady == {"embed.weight", "looked"}
    assert tried(Cut(None), table()).unsteady == {"looked"}
    often, once = Cut(0.5), Cut(0.5)
    run(often, table(), hooks_of(sgd()), settings(eval_every=1))
    run(once, table(), hooks_of(sgd()), settings())
    assert same_weights(often, once)
    # The control: looked up, such a row is cut.
    before = once.embed.weight.detach().clone()
    once.eval()(table().test.inputs)
    assert not torch.equal(once.embed.weight, before)


def test_the_layer_that_its_input_does_not_fit_is_named_with_both_shapes():
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.ReLU(), nn.Linear(60, 4)))
    message = refused(model, image_data())
    assert "mat1 and mat2 shapes cannot be multiplied (8x64 and 60x4)" in message
    assert (
        ", in layer '1.1', Linear(in_features=60, out_features=4, bias=True), given (8, 64); at " in message
    )
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_gradients_that_are_sparse_are_told():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.EmbeddingBag(20, 4, sparse=True), nn.Linear(4, 2)

        def forward(self, tokens):
            return self.head(self.words(tokens))

    part = Dataset(torch.randint(0, 20, (24, 5)), torch.arange(24) % 2, 2)
    told = tried(Tokens(), Data(part, part)).told
    assert told == ("gradients of words.weight are sparse; they are made dense, as plugins take them",)
