"""Names of a model's tensors, whatever wraps the model."""

import pytest
import torch
from engine_helpers import (
    StopAt,
    asking,
    config,
    convnet,
    hooks_of,
    image_data,
    plugin,
    run,
    same_weights,
    sgd,
)
from torch import nn

from ringfence.builtin.optim import Optim
from ringfence.engine import buffers, extra_state, tensor_names
from ringfence.engine.checkpoints.checkpoint import read_latest
from ringfence.engine.checkpoints.fingerprint import Fingerprint
from ringfence.engine.tensor_names import named_buffers, named_parameters, tied_names
from ringfence.engine.weights import weights_sha256
from ringfence.tensors import pytree


@pytest.fixture(autouse=True)
def no_cache_is_left(monkeypatch, tmp_path):
    """Have torch make the folder of its compiler's cache, which stays, where it goes with the test."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


def compiled(model):
    return torch.compile(model, backend="eager")


def test_a_compiled_model_has_the_names_and_the_digest_of_the_model():
    model = convnet()
    wrapped = compiled(model)
    assert any("_orig_mod" in name for name, _ in wrapped.named_parameters()), "the prefix that this is about"
    assert list(named_parameters(wrapped)) == [name for name, _ in model.named_parameters()]
    assert list(named_buffers(wrapped)) == [name for name, _ in model.named_buffers()]
    assert weights_sha256(wrapped) == weights_sha256(model)


def test_one_compiled_part_has_its_plain_names_too():
    model = nn.Sequential(nn.Linear(2, 2), compiled(nn.Linear(2, 2)))
    assert list(named_parameters(model)) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_two_that_would_have_one_name_keep_theirs():
    layer = nn.Linear(2, 2)
    layer.register_module("_orig_mod", nn.Linear(2, 2))
    assert list(named_parameters(layer)) == ["weight", "bias", "_orig_mod.weight", "_orig_mod.bias"]


@pytest.mark.parametrize("first", [convnet, lambda: compiled(convnet())])
@pytest.mark.parametrize("then", [convnet, lambda: compiled(convnet())])
def test_a_run_goes_on_with_or_without_compiling(tmp_path, first, then):
    straight, stop = convnet(), StopAt(3)
    run(straight, image_data(), hooks_of(sgd()), config(epochs=1))
    run(
        first(),
        image_data(),
        hooks_of(sgd()),
        config(epochs=1),
        observer=stop,
        checkpoints=tmp_path,
        stop=asking(stop.stop),
    )
    _, contents = read_latest(tmp_path, Fingerprint().compare, note=pytest.fail)
    assert not [name for name in contents.tensors if "_orig_mod" in name]
    model = then()
    run(model, image_data(), hooks_of(sgd()), config(epochs=1), checkpoints=tmp_path, resume=True)
    assert same_weights(getattr(model, "_orig_mod", model), straight)


def test_tied_parameters_have_one_name_and_the_others_lead_to_it():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    assert tied_names(model) == {"2.weight": "0.weight"}
    assert tied_names(convnet()) == {}


class Keeps(nn.Linear):
    """Has a state of its own beside its parameters."""

    taken = 0

    def get_extra_state(self):
        return {"kept": 1}

    def set_extra_state(self, state):
        self.taken = state["kept"]


def keeping():
    return nn.Sequential(convnet(), Keeps(4, 4))


def optimizer():
    return plugin(Optim, "optim", algorithm="adamw", lr=0.01, groups=[{"*.bias": {"weight_decay": 0.0}}])


@pytest.fixture
def names_as_in_0_3_0(monkeypatch):
    """Names of a compiled model as they were written then, until it is undone."""
    with monkeypatch.context() as patch:
        for module in (tensor_names, extra_state, buffers):
            patch.setattr(module, "plain_name", lambda name: name)
        yield patch


def test_a_compiled_run_of_0_3_0_goes_on_with_its_weights_and_its_optimizers_state(
    tmp_path, names_as_in_0_3_0
):
    straight, stop = keeping(), StopAt(3)
    first = compiled(keeping())
    run(
        first,
        image_data(),
        hooks_of(optimizer()),
        config(),
        observer=stop,
        checkpoints=tmp_path,
        stop=asking(stop.stop),
    )
    _, contents = read_latest(tmp_path, Fingerprint().compare, note=pytest.fail)
    written = str(pytree.decode(contents.plugins["optim"])["names"])
    assert "_orig_mod." in written, "what this is about"
    assert [name for name in contents.tensors if "_orig_mod" in name]
    names_as_in_0_3_0.undo()

    model = compiled(keeping())
    run(model, image_data(), hooks_of(optimizer()), config(), checkpoints=tmp_path, resume=True)
    run(straight, image_data(), hooks_of(optimizer()), config())
    assert weights_sha256(model) == weights_sha256(straight)
    assert model._orig_mod[1].taken == 1
