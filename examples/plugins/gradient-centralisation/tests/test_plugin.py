"""The plugin does what it is for, and works wherever ringfence does."""

import math
from typing import Any

import pytest
import torch

from ringfence import PluginRaisedError
from ringfence.testing import Conformance, StartPlugin, samples

SHAPES = {"conv.weight": (4, 3, 5, 5), "head.weight": (6, 7), "head.bias": (6,)}


class TestGradientCentralisation(Conformance):
    plugin = "gradient-centralisation"
    # One test runs it without a sandbox too; so say this of your own code only.
    trusted = True


def projected(gradient: torch.Tensor) -> torch.Tensor:
    """Return the gradient less its part along e, which is (1, …, 1) of length 1: (I - e e') g."""
    rows = gradient.double().flatten(1)
    unit = torch.full((rows.shape[1], 1), rows.shape[1] ** -0.5, dtype=torch.float64)
    projection = torch.eye(rows.shape[1], dtype=torch.float64) - unit @ unit.T
    return (rows @ projection).view(gradient.shape)


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ({}, {"conv.weight", "head.weight"}),
        ({"conv_only": True}, {"conv.weight"}),
        ({"layers": ["head.*"]}, {"head.weight"}),
        ({"layers": ["head.*"], "conv_only": True}, set()),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_projects_the_gradients_that_are_meant_and_no_others(
    ringfence_plugin: StartPlugin, options: dict[str, Any], meant: set[str], dtype: torch.dtype
) -> None:
    plugin = ringfence_plugin("gradient-centralisation", options)
    given = samples.gradients(SHAPES, dtype=dtype)

    called = plugin.call("backward", gradients=given, parameters=samples.parameters(SHAPES, dtype=dtype))

    for name, gradient in given.items():
        result = called.result[name]
        if name in meant:
            torch.testing.assert_close(
                result.double(), projected(gradient), rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-14
            )
            assert not result.equal(gradient)
        else:
            assert result.equal(gradient)
    assert called.logged["layers"] == len(meant)


def test_it_logs_how_much_of_the_gradients_it_took(ringfence_plugin: StartPlugin) -> None:
    plugin = ringfence_plugin("gradient-centralisation")
    given = samples.gradients(SHAPES)

    called = plugin.call("backward", gradients=given, parameters=samples.parameters(SHAPES))

    removed = math.hypot(*((given[name] - called.result[name]).norm().item() for name in SHAPES))
    total = math.hypot(*(gradient.norm().item() for gradient in given.values()))
    assert 0 < called.logged["removed"] < 1
    assert called.logged["removed"] == pytest.approx(removed / total, rel=1e-4)


def test_gradients_of_zero_stay_so(ringfence_plugin: StartPlugin) -> None:
    plugin = ringfence_plugin("gradient-centralisation")
    zero = type(given := samples.gradients(SHAPES)).like(given)

    called = plugin.call("backward", gradients=zero, parameters=samples.parameters(SHAPES))

    assert called.logged["removed"] == 0
    assert not any(gradient.any() for gradient in called.result.values())


def test_a_pattern_that_matches_nothing_is_told(ringfence_plugin: StartPlugin) -> None:
    plugin = ringfence_plugin("gradient-centralisation", {"layers": ["tail.*"]})

    with pytest.raises(PluginRaisedError, match=r"layers has 'tail\.\*', which matches no parameter"):
        plugin.call("backward", gradients=samples.gradients(SHAPES), parameters=samples.parameters(SHAPES))
