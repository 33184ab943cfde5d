"""The builtin models, and models of the user's."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ringfence import DataError, JobError
from ringfence.engine.data import Data, Dataset
from ringfence.job.function_options import OptionError
from ringfence.models.data_shape import Shape
from ringfence.models.model_registry import MODELS, build_model, check_model

DOCS = Path(__file__).parents[2] / "docs" / "models.md"
IMAGES = ("cnn", "resnet18", "vit")
#: Those that give a row of outputs for an image.
FOR_IMAGES = (*IMAGES, "mlp", "transformer")


def data_of(*shape: int, classes: int | None = 10) -> Data:
    inputs = torch.rand(4, *shape)
    targets = torch.zeros(4, 3) if classes is None else torch.zeros(4, dtype=torch.int64)
    part = Dataset(inputs, targets, classes)
    return Data(part, part)


def build(name: str, data: Data, base: Path = Path(), **options) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, options, data, base=base)


@pytest.mark.parametrize("name", FOR_IMAGES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 96, 64)])
def test_model_gives_a_row_of_logits_and_a_gradient_to_every_parameter(name, shape):
    small = {"resnet18": {"width": 8}, "vit": {"dim": 32, "depth": 2}}.get(name, {})
    model = build(name, data_of(*shape), **small)
    outputs = model(torch.rand(2, *shape))
    assert outputs.shape == (2, 10)
    (outputs * torch.rand(2, 10)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_regression_gets_as_many_outputs_as_targets():
    assert build("mlp", data_of(7, classes=None))(torch.rand(2, 7)).shape == (2, 3)


def test_same_seed_gives_the_same_weights():
    a, b = (build("cnn", data_of(1, 28, 28)).state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", ["cnn", "mlp", "vit"])
def test_model_can_learn_a_small_set_by_heart(name):
    torch.manual_seed(0)
    inputs, targets = torch.rand(16, 1, 16, 16), torch.arange(16) % 4
    part = Dataset(inputs, targets, 4)
    options = {"cnn": {"width": 8}, "vit": {"dim": 32, "depth": 1}}.get(name, {})
    model = build(name, Data(part, part), **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_documentation_gives_the_true_number_of_parameters():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \|$", DOCS.read_text(), re.MULTILINE)
    assert {row[0] for row in rows} == set(FOR_IMAGES)
    for name, grey, colour in rows:
        for count, shape in ((grey, (1, 28, 28)), (colour, (3, 32, 32))):
            parameters = sum(p.numel() for p in build(name, data_of(*shape)).parameters())
            assert f"{parameters:,}" == count, (name, shape)


def test_documentation_names_every_option():
    text = DOCS.read_text()
    for name, function in MODELS.items():
        for option in function.__kwdefaults__:
            assert f"| `{option}` |" in text, (name, option)


@pytest.mark.parametrize("name", IMAGES)
def test_model_for_images_refuses_other_data(name):
    with pytest.raises(DataError, match=f"model '{name}' takes images.*shape \\(13,\\)"):
        build(name, data_of(13))


@pytest.mark.parametrize("name", ["cnn", "resnet18"])
def test_image_that_is_too_small_is_told(name):
    with pytest.raises(DataError, match="at least 8x8 pixels; the data has 6x9"):
        build(name, data_of(1, 6, 9))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patch": 5}, "'patch' is 5, which does not divide 28x28"),
        ({"dim": 50, "heads": 4}, "'heads' is 4, which does not divide 'dim', 50"),
    ],
)
def test_vit_options_that_do_not_fit_are_told(options, said):
    with pytest.raises(DataError, match=said):
        build("vit", data_of(1, 28, 28), **options)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("cnn", {"widht": 3}, "'widht' is unknown; did you mean 'width'"),
        ("cnn", {"width": 0}, "'width' 0 is out of range"),
        ("cnn", {"dropout": 1.0}, "'dropout' 1.0 is out of range"),
        ("mlp", {"hidden": [64, -1]}, "'hidden' -1 is out of range"),
        ("mlp", {"activation": "rleu"}, "'activation' expected"),
        ("vit", {"depth": 2.5}, "'depth' expected a whole number"),
        ("cnn", {"width": 2**63 - 1}, "'width' 9223372036854775807 is out of range"),
    ],
)
def test_option_out_of_range_is_told_before_anything_is_built(name, options, said):
    with pytest.raises(OptionError, match=said):
        check_model(name, options)
    with pytest.raises(JobError, match=said):
        build(name, data_of(1, 28, 28), **options)


def test_unknown_model_is_told_with_the_nearest():
    with pytest.raises(JobError, match="did you mean 'resnet18'"):
        check_model("resnet50", {})


def test_targets_that_fit_no_builtin_model_are_told():
    part = Dataset(torch.rand(4, 3), torch.zeros(4, 2, 2), None)
    with pytest.raises(DataError, match="model 'mlp' gives one output a sample, and the data"):
        build("mlp", Data(part, part))
    part = Dataset(torch.rand(4, 3), {"boxes": torch.zeros(4, 2)}, None)
    with pytest.raises(DataError, match="builtin models predict classes or numbers; the targets are"):
        build("mlp", Data(part, part))


MODULE = """
from torch import nn

class Net(nn.Linear):
    def __init__(self, input_shape, num_classes, bias=True):
        super().__init__(input_shape[0], num_classes, bias=bias)

def conv(channels, height, width, num_outputs, kernel):
    return nn.Conv2d(channels, num_outputs, kernel)

def nothing():
    return None

def broken():
    raise RuntimeError("no model today")
"""


@pytest.fixture
def user(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_model_module.py").write_text(MODULE)
    yield tmp_path
    sys.modules.pop("own_model_module", None)


def test_class_of_the_users_gets_the_shapes_that_it_asks_for(user):
    model = build("own_model_module:Net", data_of(5), user, bias=False)
    assert model.weight.shape == (10, 5)
    assert model.bias is None


def test_function_of_the_users_gets_the_size_of_images(user):
    assert build("own_model_module:conv", data_of(3, 8, 8), user, kernel=3).weight.shape == (10, 3, 3, 3)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("own_model_module:nothing", {}, "returned NoneType; expected a torch.nn.Module"),
        ("own_model_module:broken", {}, "raised RuntimeError: no model today"),
        ("own_model_module:conv", {}, "option 'kernel' is missing"),
        (
            "own_model_module:conv",
            {"kernel": 3, "kernal": 3},
            "option 'kernal' is unknown; did you mean 'kernel'",
        ),
        ("own_model_module:Nett", {}, "has no 'Nett'"),
        ("own_model_module:Net", {"bias": "no"}, "option 'bias' expected true or false, got the text 'no'"),
    ],
)
def test_model_of_the_users_that_does_not_fit_is_told(user, name, options, said):
    with pytest.raises(JobError, match=said) as caught:
        build(name, data_of(3, 8, 8), user, **options)
    assert name in str(caught.value)


def test_shape_counts_the_numbers_of_an_input():
    assert Shape((3, 4, 5), 2).features == 60


def test_layers_without_end_are_refused_before_any_is_built():
    with pytest.raises(OptionError, match="'hidden' tuple should have at most 256"):
        check_model("mlp", {"hidden": [1] * 257})
