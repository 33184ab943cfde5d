"""What the kit offers, what its page says of it, and calls of plugins that come with ringfence."""

import inspect
import re
from pathlib import Path

import pytest
import torch

import ringfence.testing
from ringfence import IncompatiblePluginError, JobError, PluginRaisedError, tensors_of
from ringfence.hooks.specs import HOOKS
from ringfence.testing import Conformance, samples
from ringfence.testing.conformance import runs_of

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
TESTS = [name for name in vars(Conformance) if name.startswith("test_")]


def test_all_that_is_offered_can_be_had():
    assert ringfence.testing.__all__ == sorted(ringfence.testing.__all__)
    for name in ringfence.testing.__all__:
        assert getattr(ringfence.testing, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'conform'"):
        _ = ringfence.testing.conform


def test_the_page_has_every_test_in_order():
    assert re.findall(r"^\| `(test_\w+)`", PAGE, re.MULTILINE) == TESTS


def test_the_page_has_every_attribute_of_the_class():
    table = PAGE.partition("| attribute of the class")[2]
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)))
    assert named == list(inspect.get_annotations(Conformance))


def test_every_test_says_what_it_holds():
    assert [name for name in TESTS if not vars(Conformance)[name].__doc__] == []


def test_the_page_has_the_signatures_of_samples():
    shown = dict(re.findall(r"^\| `(\w+)\((.*?)\)` \|", PAGE, re.MULTILINE))
    made = {
        name: function
        for name, function in vars(samples).items()
        if inspect.isfunction(function)
        and function.__module__ == samples.__name__
        and not name.startswith("_")
    }

    assert shown.keys() >= made.keys()
    for name, function in made.items():
        named = [
            f"{p.name}={'{…}' if p.name == 'shapes' else p.default}"
            for p in inspect.signature(function).parameters.values()
        ]
        assert shown[name] == ", ".join(named)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: samples.outputs(samples.batch()),
            r"samples\.outputs takes a number of samples, got a Batch; ",
        ),
        (lambda: samples.losses(samples.batch()), r"write samples\.losses\(len\(batch\)\)$"),
        (lambda: samples.batch(0.5), r"samples\.batch takes a number of samples, got a float$"),
        (lambda: samples.gradients(samples.parameters()), r"as \{'weight': \(4, 3\)\}, got a TensorMap$"),
        (lambda: samples.parameters(8), r"samples\.parameters takes names and shapes, .* got a int$"),
    ],
)
def test_samples_say_what_they_take(call, says):
    with pytest.raises(TypeError, match=says):
        call()


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_there_is_a_sample_of_every_argument(hook):
    """So that the tests of a class drive plugins of every role."""
    assert set(inspect.signature(hook).parameters) <= {*samples.arguments(), "step"}


def test_samples_are_the_same_for_the_same_seed():
    first, second, other = (samples.arguments(4, seed=seed) for seed in (1, 1, 2))

    assert first["batch"].inputs.equal(second["batch"].inputs)
    assert not first["batch"].inputs.equal(other["batch"].inputs)
    assert first["parameters"].keys() - first["gradients"].keys() == {samples.WITHOUT_GRADIENT}
    for name, gradient in first["gradients"].items():
        assert gradient.equal(second["gradients"][name])
        assert gradient.shape == first["parameters"][name].shape


def test_samples_of_trees_hold_what_trees_hold():
    batch, outputs = samples.batch(5, kind="tree"), samples.outputs(5, kind="tree")

    assert list(batch.inputs) == ["input_ids", "attention_mask", "image", "parts"]
    assert {tensor.dtype for tensor in tensors_of(batch.inputs)} == {torch.int64, torch.float32, torch.bool}
    assert batch.inputs["input_ids"].gt(0).equal(batch.inputs["attention_mask"] == 1)
    assert batch.inputs["image"].equal(samples.batch(5).inputs)
    assert batch.targets.equal(samples.batch(5).targets)
    assert list(outputs) == ["logits", "hidden_states"]
    assert outputs["logits"].equal(samples.outputs(5))
    again = samples.arguments(5, kind="tree")
    assert all(map(torch.equal, tensors_of(again["batch"].inputs), tensors_of(batch.inputs)))
    with pytest.raises(ValueError, match=r"kind is 'forest'; it must be one of image, tree"):
        samples.batch(kind="forest")


def test_a_call_returns_what_the_plugin_did_and_logged(ringfence_plugin):
    plugin = ringfence_plugin("gradclip", {"max_norm": 0.5, "norm_type": float("inf")})
    given = samples.arguments()

    called = plugin.call("backward", step=3, **given)

    largest = max(gradient.abs().max().item() for gradient in called.result.values())
    assert largest == pytest.approx(0.5)
    assert called.logged["clipped"] == 1.0
    assert plugin.state() == {"calls": 1, "clipped": 1}
    plugin.load_state({"calls": 7, "clipped": 2})
    assert plugin.state() == {"calls": 7, "clipped": 2}
    assert plugin.usage.budget_bytes > 0


def test_a_result_is_not_that_of_the_next_call(ringfence_plugin):
    plugin = ringfence_plugin("gradclip", {"max_norm": 0.5})
    first = plugin.call("backward", **samples.arguments(seed=1)).result
    kept = {name: gradient.clone() for name, gradient in first.items()}

    second = plugin.call("backward", **samples.arguments(seed=2)).result

    assert all(first[name].equal(gradient) for name, gradient in kept.items())
    assert not any(second[name].equal(gradient) for name, gradient in kept.items() if gradient.numel() > 1)


def test_a_call_that_cannot_be_made_says_what_is_missing(ringfence_plugin):
    plugin = ringfence_plugin("gradclip")

    with pytest.raises(ValueError, match="'gradclip' has nothing to call; its forward is a pass-through"):
        plugin.call("forward", loss=1.0)
    with pytest.raises(ValueError, match=r"gradient\.backward of 'gradclip' needs parameters too"):
        plugin.call("backward", gradients=samples.gradients())


def test_what_a_plugin_raises_is_raised_with_its_traceback(ringfence_plugin):
    plugin = ringfence_plugin("gradclip", {"mode": "agc", "exclude": ["no such layer"]})

    with pytest.raises(PluginRaisedError, match="no such layer") as error:
        plugin.call("backward", **samples.arguments())

    assert "check_patterns" in error.value.remote_traceback


def test_what_cannot_be_started_is_told(ringfence_plugin, tmp_path, monkeypatch):
    (tmp_path / "open_range.py").write_text(
        "from ringfence import passthrough\n"
        "class Plugin:\n    role = 'monitor'\n    forward = passthrough\n    def backward(self): ...\n"
    )
    info = tmp_path / "open_range-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: open-range\nVersion: 1.0\nRequires-Dist: ringfence\n")
    (info / "entry_points.txt").write_text("[ringfence.plugins]\nopen-range = open_range:Plugin\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(JobError, match="did you mean 'gradclip'"):
        ringfence_plugin("gradclop")
    with pytest.raises(JobError, match="max_norm"):
        ringfence_plugin("gradclip", {"max_norm": -1.0})
    with pytest.raises(ValueError, match="'gradclip' is to be trusted, and what is started here is not"):
        ringfence_plugin("gradclip", settings={"isolation": "trusted"})
    with pytest.raises(IncompatiblePluginError, match="without a lower bound"):
        ringfence_plugin("open-range")


def test_the_runs_of_a_class_are_no_fixture_for_others(tmp_path):
    with pytest.raises(TypeError, match="ringfence_job runs any job"):
        runs_of(None, tmp_path)


@pytest.mark.soak
class TestGradClip(Conformance):
    plugin = "gradclip"
    options = {"max_norm": 0.5}  # noqa: RUF012 - read only
    trusted = True


@pytest.mark.soak
class TestAugment(Conformance):
    plugin = "augment"
    options = {"ops": [{"affine": {"degrees": 10}}, {"mixup": {"alpha": 0.4, "p": 0.5}}]}  # noqa: RUF012 - read only
    dtypes = ("float32",)
    trusted = True


@pytest.mark.soak
class TestOptim(Conformance):
    plugin = "optim"
    options = {"algorithm": "lamb", "lr": 0.01}  # noqa: RUF012 - read only
    trusted = True


@pytest.mark.soak
class TestMonitor(Conformance):
    plugin = "monitor"
    trusted = True
