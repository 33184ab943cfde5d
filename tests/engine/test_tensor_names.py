"""Names of a model's tensors, whatever wraps the model."""

import pytest
import torch
from engine_helpers import StopAt, config, convnet, hooks_of, image_data, run, same_weights, sgd
from torch import nn

from ringfence.engine import read_latest, weights_sha256
from ringfence.engine.course import Course
from ringfence.engine.tensor_names import named_buffers, named_parameters, tied_names


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
        recorder=stop,
        checkpoints=tmp_path,
        stop=stop.stop,
    )
    _, contents = read_latest(tmp_path, Course().compare, note=pytest.fail)
    assert not [name for name in contents.tensors if "_orig_mod" in name]
    model = then()
    run(model, image_data(), hooks_of(sgd()), config(epochs=1), checkpoints=tmp_path, resume=True)
    assert same_weights(getattr(model, "_orig_mod", model), straight)


def test_tied_parameters_have_one_name_and_the_others_lead_to_it():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    assert tied_names(model) == {"2.weight": "0.weight"}
    assert tied_names(convnet()) == {}
