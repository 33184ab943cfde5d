"""The builtin models as programs of ``torch.export``, which whatever comes after training starts from."""

import pytest
import torch

from ringfence.models.data_shape import Shape
from ringfence.models.model_registry import MODELS

pytestmark = pytest.mark.room

TOKENS = Shape(
    (7,), 3, {"input_ids": (7,), "attention_mask": (7,)}, {"input_ids": (11,), "attention_mask": (2,)}
)
IMAGE, PIXELS = Shape((3, 16, 16), 3), Shape((3, 16, 16), 3, positions=True)
TABLE = Shape((2,), 1, {"categories": (2,), "numbers": (3,)}, {"categories": (5, 6)})
IDS = (torch.randint(0, 11, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3]))


@pytest.mark.parametrize(
    ("name", "shape", "inputs", "options"),
    [
        ("cnn", IMAGE, (torch.rand(2, 3, 16, 16),), {}),
        ("mlp", IMAGE, (torch.rand(2, 3, 16, 16),), {}),
        ("mlp", TABLE, (torch.randint(0, 5, (2, 2)), torch.rand(2, 3)), {}),
        ("vit", IMAGE, (torch.rand(2, 3, 16, 16),), {}),
        ("resnet18", IMAGE, (torch.rand(2, 3, 16, 16),), {"width": 4}),
        ("unet", PIXELS, (torch.rand(2, 3, 16, 16),), {"width": 4}),
        ("transformer", IMAGE, (torch.rand(2, 3, 16, 16),), {}),
        ("transformer", TOKENS, IDS, {}),
        ("lstm", Shape((7, 5), 3), (torch.rand(2, 7, 5),), {}),
    ],
)
# Torch's own way of holding the weights of an LSTM.
@pytest.mark.filterwarnings("ignore:The tensor attributes self.lstm._flat_weights:UserWarning")
def test_a_program_gives_the_outputs_of_the_model(name, shape, inputs, options):
    model = MODELS[name](shape, **options).eval()

    program = torch.export.export(model, inputs)

    with torch.no_grad():
        torch.testing.assert_close(program.module()(*inputs), model(*inputs))
