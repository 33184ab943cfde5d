"""The table of layers and the count of multiplications: right, bounded, and without a trace in the model."""

import pytest
import torch
from engine_helpers import Unused, config, convnet, image_data
from torch import nn

from ringfence.engine.layer_shapes import count_macs, layer_rows, noting_shapes
from ringfence.engine.trial import macs_a_sample, try_together


def rows_of(model, inputs, most=16):
    with noting_shapes(model) as shapes:
        model(inputs)
    rows, left_out = layer_rows(model, shapes, most)
    return [(row["name"], row["output"], row["parameters"], row["count"]) for row in rows], left_out


def block(width=4):
    return nn.Sequential(nn.Linear(width, width), nn.ReLU())


def test_the_trial_notes_what_each_module_returns_for_one_sample():
    setup = try_together(convnet(), image_data(), config())
    assert setup.tried.shapes == {
        "": (4,),
        **dict.fromkeys("0123", (4, 8, 8)),
        "4": (256,),
        "5": (4,),
    }
    assert not any(module._forward_hooks for module in setup.model.modules())


def test_rows_go_as_deep_as_there_is_room_and_all_parameters_are_in_them():
    model = nn.Sequential(nn.Sequential(block(), block()), nn.Linear(4, 2))
    deep, _ = rows_of(model, torch.ones(3, 4))
    assert [row[0] for row in deep] == ["0.0.0", "0.0.1", "0.1.0", "0.1.1", "1"]
    shallow, _ = rows_of(model, torch.ones(3, 4), most=4)
    assert shallow == [("0.0", (4,), 20, 2), ("1", (2,), 10, 1)]
    assert sum(row[2] * row[3] for row in shallow) == sum(p.numel() for p in model.parameters())


def test_neighbours_that_are_alike_are_one_row():
    model = nn.Sequential(*(block() for _ in range(40)))
    assert rows_of(model, torch.ones(3, 4)) == ([("0", (4,), 20, 40)], 0)


def test_of_a_long_row_of_unlike_ones_the_middle_is_left_out():
    model = nn.Sequential(*(nn.Linear(n, n + 1) for n in range(1, 30)))
    rows, left_out = rows_of(model, torch.ones(3, 1), most=5)
    assert ([row[0] for row in rows], left_out) == (["0", "1", "2", "27", "28"], 24)


def test_own_parameters_and_tied_ones_are_counted_once():
    rows, _ = rows_of(Unused(), torch.ones(2, 64))
    assert sum(row[2] * row[3] for row in rows) == sum(p.numel() for p in Unused().parameters())
    assert rows[0] == ("", None, 3 + 32, 1)
    assert {row[0]: row[2] for row in rows}["tied"] == 8


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_scripts_and_what_is_compiled_are_left_alone():
    script = torch.jit.script(nn.Linear(4, 2))
    model = nn.Sequential(block(), script)
    with noting_shapes(model) as shapes:
        model(torch.ones(3, 4))
    assert shapes == {"": (2,), "0": (4,), "0.0": (4,), "0.1": (4,)}


def test_multiplications_are_those_of_products_and_convolutions():
    # By hand: 8 x 8 places, 3 x 3 pixels of 1 channel, 4 channels; then 256 numbers to 4.
    model, inputs = convnet().eval(), torch.ones(1, 1, 8, 8)
    assert count_macs(lambda: model(inputs)) == 8 * 8 * 9 * 4 + 256 * 4


def test_counting_them_leaves_no_trace():
    setup = try_together(convnet(), image_data(), config())
    before = {name: value.clone() for name, value in setup.model.state_dict().items()}
    generator = torch.get_rng_state()
    assert macs_a_sample(setup) == 8 * 8 * 9 * 4 + 256 * 4
    assert all(torch.equal(before[name], value) for name, value in setup.model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    assert setup.model.training
