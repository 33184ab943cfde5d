"""Every number of the monitor against numpy; broken tensors; pictures."""

import math

import numpy as np
import pytest
import torch

from ringfence import Batch, PluginError, StepInfo, TensorMap, tensors_of
from ringfence.builtin.monitor import Monitor
from ringfence.builtin.monitor.picture import MAX_SIDE, grid
from ringfence.builtin.monitor.plugin import MAX_LAYERS
from ringfence.builtin.monitor.summary import CHUNK, norm_of, summarise
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.result_checks import check_report

SHAPES = {"conv.weight": (8, 3, 5, 5), "conv.bias": (8,), "head.weight": (10, 40), "head.bias": (10,)}


@pytest.fixture(autouse=True)
def _as_in_sandbox():
    with torch.no_grad():
        yield


def tensors(seed, scale=1.0, shapes=SHAPES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    laid = TensorMap.like({name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()})
    for tensor in laid.values():
        tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))
    return laid


def local(**options):
    """Return a monitor behind the checks that every plugin's report meets."""
    return LocalPlugin(PluginSpec("monitor", "r", "0", "m", "M", "monitor"), Monitor(**options))


def report(laid=None, /, **options):
    parameters, updates, gradients = laid or (tensors(1), tensors(2, 1e-3), tensors(3))
    arguments = {"parameters": parameters, "updates": updates, "gradients": gradients}
    return local(**options).call("backward", arguments, StepInfo(0))


def as_numpy(tensor):
    return tensor.double().numpy()


def joined(laid):
    return np.concatenate([as_numpy(tensor).ravel() for tensor in laid.values()])


# numbers


@pytest.mark.parametrize("name", SHAPES)
def test_every_number_of_a_layer_equals_numpy(name):
    parameters, updates, gradients = tensors(1), tensors(2, 1e-3), tensors(3)
    parameters["head.weight"][0] = 0.0
    gradients["conv.weight"][:2] = 0.0
    scalars = report((parameters, updates, gradients)).scalars
    weight, update, gradient = (as_numpy(laid[name]) for laid in (parameters, updates, gradients))
    expected = {
        "weight_mean": weight.mean(),
        "weight_std": weight.std(),
        "weight_min": weight.min(),
        "weight_max": weight.max(),
        "weight_zeros": (weight == 0).mean(),
        "weight_nonfinite": 0.0,
        "grad_norm": np.linalg.norm(gradient),
        "grad_zeros": (gradient == 0).mean(),
        "grad_nonfinite": 0.0,
        "update_ratio": np.linalg.norm(update) / np.linalg.norm(weight),
    }
    found = {what: scalars[f"{what}/{name}"] for what in expected}
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_norms_of_the_whole_model_equal_numpy():
    parameters, updates, gradients = tensors(1), tensors(2, 1e-3), tensors(3)
    scalars = report((parameters, updates, gradients), layers=["head.*"]).scalars
    weight, update, gradient = (np.linalg.norm(joined(laid)) for laid in (parameters, updates, gradients))
    assert scalars["weight_norm"] == pytest.approx(weight, rel=1e-6)
    assert scalars["update_norm"] == pytest.approx(update, rel=1e-6)
    assert scalars["grad_norm"] == pytest.approx(gradient, rel=1e-6)
    assert scalars["update_ratio"] == pytest.approx(update / weight, rel=1e-6)


@pytest.mark.parametrize("bins", [1, 64, 512])
def test_histograms_equal_numpy(bins):
    parameters = tensors(1)
    found = report((parameters, tensors(2), tensors(3)), bins=bins).histograms["weights/conv.weight"]
    values = as_numpy(parameters["conv.weight"]).ravel()
    counts, edges = np.histogram(values, bins=bins)
    np.testing.assert_allclose(found.edges, edges, rtol=1e-12)
    assert sum(found.counts) == values.size
    # A value on the border of two bins may fall to either side in float32.
    assert np.abs(np.array(found.counts) - counts).sum() <= 2


def test_spread_of_a_tensor_far_from_zero_keeps_its_digits():
    tensor = 1000.0 + 1e-3 * torch.randn(3 * CHUNK + 17, generator=torch.Generator().manual_seed(0))
    found = summarise(tensor)
    assert found.mean == pytest.approx(as_numpy(tensor).mean(), rel=1e-7)
    assert found.std == pytest.approx(as_numpy(tensor).std(), rel=1e-3)


def test_chunks_join_to_the_whole():
    tensor = torch.randn(3 * CHUNK + 17, generator=torch.Generator().manual_seed(0))
    tensor[:CHUNK] += 5.0
    found = summarise(tensor, 64)
    values = as_numpy(tensor)
    assert found.mean == pytest.approx(values.mean(), rel=1e-6)
    assert found.std == pytest.approx(values.std(), rel=1e-6)
    assert found.norm == pytest.approx(np.linalg.norm(values), rel=1e-6)
    counts, _ = np.histogram(values, bins=64)
    assert np.abs(np.array(found.histogram.counts) - counts).sum() <= 20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_read_as_they_are(dtype):
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = summarise(tensor, 16)
    assert found.mean == pytest.approx(as_numpy(tensor).mean(), rel=1e-5)
    assert found.std == pytest.approx(as_numpy(tensor).std(), rel=1e-5)


# broken tensors


def test_a_parameter_full_of_nan_is_reported():
    parameters = tensors(1)
    parameters["conv.weight"].fill_(math.nan)
    found = report((parameters, tensors(2), tensors(3)))
    assert found.scalars["weight_nonfinite/conv.weight"] == 1.0
    assert math.isnan(found.scalars["weight_mean/conv.weight"])
    assert math.isnan(found.scalars["weight_norm"])
    assert "weights/conv.weight" not in found.histograms
    assert "weights/head.weight" in found.histograms


def test_numbers_beside_a_nan_are_of_the_finite_part():
    gradients = tensors(3)
    gradients["head.weight"][0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    found = report((tensors(1), tensors(2), gradients))
    assert found.scalars["grad_nonfinite/head.weight"] == 3 / 400
    assert math.isnan(found.scalars["grad_norm/head.weight"])
    finite = as_numpy(gradients["head.weight"]).ravel()[3:]
    histogram = found.histograms["gradients/head.weight"]
    assert sum(histogram.counts) == 397
    assert (histogram.edges[0], histogram.edges[-1]) == (finite.min(), finite.max())


@pytest.mark.parametrize("value", [0.0, 1.0, -3e38, 1e-44])
def test_a_constant_has_one_bin(value):
    tensor = torch.full((50,), value)
    found = summarise(tensor, 8)
    assert found.std == 0.0
    assert sorted(found.histogram.counts) == [0] * 7 + [50]
    assert found.histogram.edges[0] < value < found.histogram.edges[-1]


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e25, 3e37])
def test_numbers_whose_squares_run_over_or_under_are_told_right(scale):
    tensor = scale * torch.randn(1000, generator=torch.Generator().manual_seed(0)).clamp(-5, 5)
    found = summarise(tensor, 16)
    values = as_numpy(tensor)
    assert found.std == pytest.approx(values.std(), rel=1e-5)
    assert found.norm == pytest.approx(np.linalg.norm(values), rel=1e-5)
    assert norm_of(tensor) == pytest.approx(np.linalg.norm(values), rel=1e-5)
    counts, _ = np.histogram(values, bins=16)
    assert np.abs(np.array(found.histogram.counts) - counts).sum() <= 2


def test_an_update_of_zero_weights_has_an_infinite_ratio():
    parameters = tensors(1)
    parameters["conv.bias"].zero_()
    assert report((parameters, tensors(2), tensors(3))).scalars["update_ratio/conv.bias"] == math.inf


def test_zero_updates_of_zero_weights_have_none():
    parameters, updates = tensors(1, 0.0), tensors(2, 0.0)
    assert report((parameters, updates, tensors(3))).scalars["update_ratio"] == 0.0


def test_a_parameter_without_gradient_is_left_out():
    gradients = tensors(3).select(["head.weight"])
    scalars = report((tensors(1), tensors(2), gradients)).scalars
    assert "grad_norm/head.weight" in scalars
    assert "grad_norm/conv.weight" not in scalars
    assert scalars["grad_norm"] == pytest.approx(scalars["grad_norm/head.weight"])


# choices


def test_patterns_choose_the_layers():
    found = report(layers=["*.bias"])
    assert {name.partition("/")[2] for name in found.histograms} == {"conv.bias", "head.bias"}
    assert "weight_mean/conv.weight" not in found.scalars


def test_a_pattern_that_matches_nothing_is_told():
    with pytest.raises(PluginError, match=r"'haed\.\*', which matches no parameter"):
        report(layers=["haed.*"])


@pytest.mark.parametrize(
    ("options", "prefix"),
    [({"weights": False}, "weight_mean"), ({"gradients": False}, "grad_"), ({"updates": False}, "update_")],
)
def test_what_is_switched_off_is_absent(options, prefix):
    assert any(name.startswith(prefix) for name in report().scalars)
    assert not any(name.startswith(prefix) for name in report(**options).scalars)


def test_update_ratios_do_not_need_the_weights_report():
    with_weights, without = report().scalars, report(weights=False).scalars
    assert without["update_ratio/head.weight"] == pytest.approx(with_weights["update_ratio/head.weight"])


def test_no_bins_means_no_histograms():
    assert report(bins=0).histograms == {}


def test_a_model_of_very_many_layers_is_reported_in_part():
    shapes = {f"layer{i}.weight": (2, 2) for i in range(MAX_LAYERS + 50)}
    laid = [tensors(seed, shapes=shapes) for seed in range(3)]
    found = report(laid)
    assert found.scalars["layers_left_out"] == 50.0
    assert f"weight_mean/layer{MAX_LAYERS - 1}.weight" in found.scalars
    assert found.scalars["grad_norm"] == pytest.approx(np.linalg.norm(joined(laid[2])), rel=1e-6)


@pytest.mark.parametrize("bins", [64, 512])
def test_histograms_of_a_large_model_are_reported_up_to_what_a_report_holds(bins):
    shapes = {f"layer{i}.weight": (2, 2) for i in range(MAX_LAYERS)}
    found = report([tensors(seed, shapes=shapes) for seed in range(3)], bins=bins)
    drawn = 42_000 // (2 * (2 * bins + 1))
    assert found.scalars["histograms_left_out"] == MAX_LAYERS - drawn
    assert f"weights/layer{drawn - 1}.weight" in found.histograms
    assert len(found.histograms) == 2 * drawn
    assert check_report(found) is found
    assert f"weight_mean/layer{MAX_LAYERS - 1}.weight" in found.scalars


def test_names_that_a_report_cannot_hold_are_rewritten():
    shapes = {"blocks:a b.weight": (3, 3), "x" * 300: (2,)}
    laid = [tensors(seed, shapes=shapes) for seed in range(3)]
    scalars = report(laid).scalars
    assert "weight_mean/blocks_a_b.weight" in scalars
    assert f"weight_mean/{'x' * 180}" in scalars


# the batch


def batch(inputs, targets, classes=4):
    return Batch(inputs, targets, torch.arange(len(tensors_of(inputs)[0])), classes)


def watch(given, outputs, /, **options):
    return local(**options).call("forward", {"batch": given, "outputs": outputs, "loss": 1.0}, StepInfo(0))


@pytest.mark.parametrize("soft", [False, True])
def test_accuracy_confidence_and_entropy_equal_numpy(soft):
    outputs = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(20) % 4
    given = batch(
        torch.rand(20, 1, 6, 6), torch.nn.functional.one_hot(targets, 4).float() if soft else targets
    )
    found = watch(given, outputs).scalars
    exps = np.exp(as_numpy(outputs))
    probabilities = exps / exps.sum(axis=1, keepdims=True)
    assert found["accuracy"] == pytest.approx((probabilities.argmax(axis=1) == targets.numpy()).mean())
    assert found["confidence"] == pytest.approx(probabilities.max(axis=1).mean(), rel=1e-6)
    entropy = -(probabilities * np.log(probabilities)).sum(axis=1).mean()
    assert found["entropy"] == pytest.approx(entropy, rel=1e-6)


def test_a_certain_model_has_no_entropy():
    found = watch(batch(torch.rand(2, 1, 6, 6), torch.tensor([0, 1])), 1e4 * torch.eye(4)[:2]).scalars
    assert found["entropy"] == 0.0
    assert found["accuracy"] == 1.0


def test_a_regression_without_images_reports_nothing():
    assert watch(batch(torch.rand(5, 3), torch.rand(5), None), torch.rand(5)) is None


def test_the_picture_shows_the_samples_in_order():
    inputs = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 1, 4, 6)
    picture = watch(batch(inputs, torch.zeros(5, dtype=torch.int64)), torch.zeros(5, 4), images=5).images[
        "batch"
    ]
    assert picture.shape == (2 * 5 + 1, 3 * 7 + 1)
    places = [(1, 1), (1, 8), (1, 15), (6, 1), (6, 8)]
    assert [int(picture[row, column]) for row, column in places] == [0, 64, 128, 191, 255]
    assert (picture[1:5, 8:14] == 64).all()


def test_colours_stay_colours():
    inputs = torch.zeros(1, 3, 4, 4)
    inputs[:, 1] = 1.0
    assert grid(inputs, 1)[2, 2].tolist() == [0, 255, 0]


def test_numbers_outside_the_picture_range_are_shown_at_its_ends():
    inputs = torch.tensor([math.nan, -2.0, 2.0, math.inf]).view(4, 1, 1, 1)
    assert grid(inputs, 4)[1::2, 1::2].tolist() == [[0, 0], [255, 255]]


@pytest.mark.parametrize("side", [28, 224, 1022, 1023, 3000])
def test_a_picture_is_never_larger_than_a_report_allows(side):
    picture = grid(torch.rand(64, 1, side, side // 2), 64)
    assert max(picture.shape) <= MAX_SIDE


def test_no_images_means_no_picture():
    found = watch(batch(torch.rand(2, 1, 6, 6), torch.tensor([0, 1])), torch.rand(2, 4), images=0)
    assert found.images == {}


def test_the_outputs_can_be_left_out():
    found = watch(batch(torch.rand(2, 1, 6, 6), torch.tensor([0, 1])), torch.rand(2, 4), outputs=False)
    assert found.scalars == {}
    assert "batch" in found.images


# trees


@pytest.mark.parametrize("last", [False, True])
def test_positions_that_do_not_count_are_left_out(last):
    generator = torch.Generator().manual_seed(5)
    outputs = torch.randn(3, 4, 5, 6, generator=generator)
    targets = torch.randint(0, 4, (3, 5, 6), generator=generator)
    targets[:, 2] = -100
    given = outputs.movedim(1, -1).contiguous() if last else outputs
    found = watch(batch(torch.rand(3, 1, 5, 6), targets), given, confusion=True)
    rows, kept = outputs.movedim(1, -1).reshape(-1, 4).double().numpy(), targets.flatten().numpy()
    rows, kept = rows[kept >= 0], kept[kept >= 0]
    probabilities = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
    assert found.scalars["accuracy"] == pytest.approx((rows.argmax(1) == kept).mean())
    assert found.scalars["confidence"] == pytest.approx(probabilities.max(1).mean(), rel=1e-6)
    assert found.scalars["entropy"] == pytest.approx(-(probabilities * np.log(probabilities)).sum(1).mean())
    matrix = np.zeros((4, 4))
    np.add.at(matrix, (kept, rows.argmax(1)), 1)
    shares = np.rint(255 * matrix / matrix.sum(1, keepdims=True))
    assert found.images["confusion"].shape == (4 * 32, 4 * 32)
    assert np.array_equal(found.images["confusion"][::32, ::32].numpy(), shares)


def test_a_large_batch_is_looked_at_in_parts_with_the_same_result(monkeypatch):
    outputs, targets = torch.randn(9, 3, 7), torch.randint(0, 3, (9, 7))
    whole = watch(batch(torch.rand(9, 2), targets, 3), outputs, images=0).scalars
    monkeypatch.setattr("ringfence.builtin.monitor.outputs._AT_ONCE", 50)
    assert watch(batch(torch.rand(9, 2), targets, 3), outputs, images=0).scalars == pytest.approx(whole)


def test_a_batch_in_which_nothing_counts_reports_nothing():
    nothing = torch.full((3, 7), -100)
    assert watch(batch(torch.rand(3, 2), nothing, 3), torch.randn(3, 3, 7), confusion=True) is None


TREES = {
    "logits": {"hidden": torch.randn(20, 7), "logits": torch.randn(20, 4)},
    "the only one": {"scores": torch.randn(20, 4)},
    "the first": [
        torch.randn(20, 4),
        {"attention": torch.rand(20, 2) > 0.5, "more": [torch.full((20,), torch.nan)]},
    ],
}


@pytest.mark.parametrize("name", TREES)
def test_outputs_that_are_a_tree_are_described_by_name(name):
    outputs = TREES[name]
    targets = torch.arange(20) % 4
    found = watch(batch({"x": torch.rand(20, 3)}, targets), outputs).scalars
    logits = {"logits": lambda: outputs["logits"], "the only one": lambda: outputs["scores"]}.get(
        name, lambda: outputs[0]
    )()
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == targets).float().mean()))
    names = {"logits": ["hidden", "logits"], "the only one": ["scores"]}.get(
        name, ["0", "1.attention", "1.more.0"]
    )
    assert [key for key in found if key.startswith("output_mean")] == [f"output_mean/{one}" for one in names]
    for one, tensor in zip(names, tensors_of(outputs), strict=True):
        numbers = as_numpy(tensor)
        finite = numbers[np.isfinite(numbers)]
        assert found[f"output_nonfinite/{one}"] == pytest.approx(1 - finite.size / numbers.size)
        expected = [f(finite) if finite.size else np.nan for f in (np.mean, np.std, np.min, np.max)]
        got = [found[f"output_{what}/{one}"] for what in ("mean", "std", "min", "max")]
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-7, nan_ok=True)


def test_more_outputs_than_are_described_are_counted():
    outputs = {f"layer{i}": torch.rand(2, 3) for i in range(70)}
    found = watch(batch({"x": torch.rand(2, 3)}, {"y": torch.rand(2)}, None), outputs).scalars
    assert found["outputs_left_out"] == 6
    assert len(found) == 64 * 5 + 1


def test_outputs_without_a_prediction_are_no_reason_to_fail():
    found = watch(
        batch(torch.rand(2, 3), torch.tensor([0, 1])), {"a": torch.rand(2, 4), "b": torch.rand(2, 4)}
    )
    assert "accuracy" not in found.scalars
    assert "output_mean/a" in found.scalars


@pytest.mark.parametrize("as_bytes", [False, True])
def test_the_first_images_of_a_dict_are_shown(as_bytes):
    images = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 1, 4, 6)
    given = {"ids": torch.arange(5), "image": (images * 255).round().to(torch.uint8) if as_bytes else images}
    picture = watch(batch_of_tree(given), torch.zeros(5, 4), images=5).images["batch"]
    places = [(1, 1), (1, 8), (1, 15), (6, 1), (6, 8)]
    assert [int(picture[row, column]) for row, column in places] == [0, 64, 128, 191, 255]


def batch_of_tree(inputs):
    return Batch(inputs, torch.zeros(5, dtype=torch.int64), torch.arange(5), 4)


def test_a_confusion_of_very_many_classes_is_not_drawn():
    outputs = torch.rand(2, 2000)
    found = watch(batch(torch.rand(2, 3), torch.tensor([0, 1]), 2000), outputs, confusion=True)
    assert found.images == {}
    assert "accuracy" in found.scalars


def test_it_says_that_it_takes_trees():
    assert Monitor.takes_trees is True
