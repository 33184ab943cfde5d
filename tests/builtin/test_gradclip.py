"""Clipping against torch and against the papers' formulas; the adapter in the docs."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from ringfence import StepInfo, TensorMap
from ringfence.builtin.gradclip import GradClip
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.tensors import pytree

DOCS = Path(__file__).parents[2] / "docs" / "gradclip.md"
SHAPES = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "head.weight": (5, 7), "scale": ()}


@pytest.fixture(autouse=True)
def _as_in_sandbox():
    with torch.no_grad():
        yield


def tensors(seed, scale=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    laid = TensorMap.like({name: torch.empty(shape, dtype=dtype) for name, shape in SHAPES.items()})
    for tensor in laid.values():
        tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))
    return laid


def clip(gradients, parameters=None, **options):
    info = StepInfo(0)
    result = GradClip(**options).backward(gradients, parameters or tensors(9), info)
    return gradients if result is None else result, info.scalars


def as_torch_parameters(gradients):
    parameters = []
    for gradient in gradients.values():
        parameter = nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient.clone()
        parameters.append(parameter)
    return parameters


def equal(gradients, parameters):
    return all(torch.equal(g, p.grad) for g, p in zip(gradients.values(), parameters, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.1, 1.0, 1e6])
def test_norm_equals_torch_bit_for_bit(dtype, norm_type, max_norm):
    gradients = tensors(1, dtype=dtype)
    expected = as_torch_parameters(gradients)
    norm = nn.utils.clip_grad_norm_(expected, max_norm, norm_type)
    result, logged = clip(gradients, max_norm=max_norm, norm_type=norm_type)
    assert equal(result, expected)
    assert logged["norm"] == float(norm)
    assert logged["clipped"] == float(float(norm) > max_norm)


@pytest.mark.parametrize("max_value", [0.1, 1.0, 100.0])
def test_value_equals_torch_bit_for_bit(max_value):
    gradients = tensors(1)
    expected = as_torch_parameters(gradients)
    nn.utils.clip_grad_value_(expected, max_value)
    result, logged = clip(gradients, mode="value", max_value=max_value)
    assert equal(result, expected)
    assert logged["clipped"] == float(max_value < 10.0)


def agc_by_the_paper(gradient, weight, clip_factor, eps):
    """Equation 3 of arXiv:2102.06171, unit by unit, in float64."""
    gradient, weight = gradient.double(), weight.double()
    rows = [slice(None)] if gradient.dim() <= 1 else range(gradient.shape[0])
    result = gradient.clone()
    for row in rows:
        part = gradient[row] if gradient.dim() else gradient
        own = weight[row] if gradient.dim() else weight
        bound = max(own.norm().item(), eps)
        if part.norm().item() / bound > clip_factor:
            scaled = clip_factor * bound / part.norm() * part
            if gradient.dim():
                result[row] = scaled
            else:
                result = scaled
    return result


@pytest.mark.parametrize("clip_factor", [0.01, 0.5, 1.5])
def test_agc_equals_the_formula_of_the_paper(clip_factor):
    gradients, parameters = tensors(1), tensors(2)
    parameters["conv.weight"][1] = 0.0
    result, _ = clip(gradients, parameters, mode="agc", clip_factor=clip_factor, eps=1e-3)
    for name in gradients:
        expected = agc_by_the_paper(gradients[name], parameters[name], clip_factor, 1e-3)
        torch.testing.assert_close(result[name].double(), expected, rtol=2e-6, atol=0)


def test_agc_lets_the_gradient_of_zero_weights_through_up_to_eps():
    gradients, parameters = tensors(1), tensors(2, scale=0.0)
    result, logged = clip(gradients, parameters, mode="agc", clip_factor=0.1, eps=1e-2)
    torch.testing.assert_close(result["head.weight"].norm(dim=1), torch.full((5,), 1e-3))
    assert logged["clipped_units"] == 1.0


def test_agc_scales_only_the_units_over_the_bound():
    gradients, parameters = tensors(1, scale=1e-4), tensors(2)
    gradients["head.weight"][3] = 50.0
    result, logged = clip(gradients, parameters, mode="agc", clip_factor=0.1)
    assert logged["clipped_units"] == 1 / (4 + 1 + 5 + 1)
    kept = [0, 1, 2, 4]
    assert torch.equal(result["head.weight"][kept], gradients["head.weight"][kept])
    assert torch.equal(result["conv.weight"], gradients["conv.weight"])


def test_agc_leaves_excluded_layers_alone():
    gradients = tensors(1)
    result, _ = clip(gradients, mode="agc", exclude=["head.*"])
    assert torch.equal(result["head.weight"], gradients["head.weight"])
    assert not torch.equal(result["conv.weight"], gradients["conv.weight"])


def test_a_pattern_that_matches_nothing_is_told():
    with pytest.raises(ValueError, match=r"'haed\.\*', which matches no parameter"):
        clip(tensors(1), mode="agc", exclude=["haed.*"])


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
def test_gradients_within_the_bound_pass_without_a_copy(mode):
    gradients = tensors(1, scale=1e-6)
    info = StepInfo(0)
    assert GradClip(mode=mode).backward(gradients, tensors(2), info) is None
    assert info.scalars["clipped"] == 0.0


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
def test_the_gradients_that_were_given_stay_as_they_were(mode):
    gradients = tensors(1, scale=10.0)
    clip(gradients, mode=mode)
    assert all(torch.equal(gradients[name], tensors(1, scale=10.0)[name]) for name in gradients)


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_told_by_name(mode, value):
    gradients = tensors(1)
    gradients["head.weight"][2, 3] = value
    with pytest.raises(ValueError, match=r"gradient of 'head\.weight' has 1 of 35 values"):
        clip(gradients, mode=mode)


def test_a_norm_beyond_float32_still_clips_to_the_bound():
    gradients = tensors(1, scale=1e30)
    result, logged = clip(gradients, max_norm=2.0)
    assert logged["norm"] == pytest.approx(1e30 * clip(tensors(1))[1]["norm"], rel=1e-6)
    assert clip(result)[1]["norm"] == pytest.approx(2.0, rel=1e-5)


def test_absent_gradients_are_no_fault():
    none = tensors(1).select([])
    assert clip(none)[1]["norm"] == 0.0
    some = tensors(1).select(["head.weight"])
    assert list(clip(some, mode="agc")[0]) == ["head.weight"]


def test_the_share_of_clipped_calls_goes_on_after_a_restart():
    plugin = GradClip(max_norm=1.0)
    for scale in (10.0, 1e-3, 10.0):
        plugin.backward(tensors(1, scale), tensors(2), StepInfo(0))
    fresh = GradClip(max_norm=1.0)
    fresh.load_state_dict(pytree.loads(pytree.dumps(plugin.state_dict())))
    info = StepInfo(0)
    fresh.backward(tensors(1, 1e-3), tensors(2), info)
    assert info.scalars["clipped_fraction"] == 0.5


def test_the_adapter_in_the_docs_runs_as_it_stands():
    """The founding `GradientClipper`, an ``nn.Module`` whose forward scales gradients, as a plugin."""
    snippets = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (snippet,) = [text for text in snippets if "GradientClipper" in text]
    namespace = {"__name__": "clipper"}
    exec(compile(snippet, str(DOCS), "exec"), namespace)  # noqa: S102 - the docs are ours, and this tests them
    adapter = namespace["Clip"]
    body = snippet[snippet.index("class Clip(") :].strip().splitlines()[1:]
    assert len(body) == 3
    spec = PluginSpec("clip", "clipper", "0", "clipper", "Clip", "gradient")
    plugin = LocalPlugin(spec, adapter(max_norm=0.5))
    assert dict(plugin.accepts) == {"backward": ("gradients",)}
    gradients = tensors(1)
    result = plugin.call("backward", {"gradients": gradients, "parameters": tensors(2)}, StepInfo(0))
    expected, _ = clip(gradients, max_norm=0.5)
    for name in gradients:
        torch.testing.assert_close(result[name], expected[name], rtol=1e-5, atol=1e-7)
