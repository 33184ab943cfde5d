"""The plugins of the page on migration: taken out of it, installed, held to what every plugin must pass."""

import math
import os
import re

import pytest
import torch
from torch.nn.functional import cross_entropy

from ringfence.job.yaml_document import parse_yaml
from ringfence.testing import Conformance, samples

from .page import blocks

PAGE = "migration.md"
#: File to its text.
FILES = {block.title: block.text for block in blocks(PAGE) if block.title}
JOBS = [parse_yaml(block.text, PAGE).value for block in blocks(PAGE) if block.language == "yaml"]
#: Plugin to its entry in a job, as the page has it.
ENTRIES = {}
for job in JOBS:
    for entry in job.get("plugins", ()):
        ENTRIES[next(iter(entry))] = dict(entry)


def options(plugin):
    return dict(ENTRIES[plugin][plugin] or {})


def settings(plugin):
    return {key: value for key, value in ENTRIES[plugin].items() if key != plugin}


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory):
    """A folder with the page's plugins as an installed distribution."""
    site = tmp_path_factory.mktemp("site")
    points = ""
    for name, text in FILES.items():
        (site / name).write_text(text)
        (found,) = re.findall(r"^class (\w+)", text, re.MULTILINE)
        module = name.removesuffix(".py")
        points += f"{module.replace('_', '-')} = {module}:{found}\n"
    info = site / "migrated-1.0.dist-info"
    info.mkdir()
    about = "Metadata-Version: 2.1\nName: migrated\nVersion: 1.0\nRequires-Dist: ringfence>=0.1\n"
    (info / "METADATA").write_text(about)
    (info / "entry_points.txt").write_text(f"[ringfence.plugins]\n{points}")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in FILES))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        # For the processes that train.
        patch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        yield site


def test_each_plugin_of_the_page_has_an_entry_in_a_job():
    assert sorted(ENTRIES) == sorted(name.removesuffix(".py").replace("_", "-") for name in FILES)


def test_each_plugin_of_the_page_is_held_to_what_every_plugin_must_pass():
    held = {cls.plugin for cls in globals().values() if isinstance(cls, type) and hasattr(cls, "plugin")}

    assert held == set(ENTRIES)


def test_gradient_norm_reports_each_and_all(ringfence_plugin):
    gradients = samples.gradients()

    report = ringfence_plugin("gradient-norm").call("backward", gradients=gradients).result

    assert report.scalars["total"] == pytest.approx(torch.nn.utils.get_total_norm(gradients.values()).item())
    for name, gradient in gradients.items():
        assert report.scalars[f"layer/{name}"] == pytest.approx(gradient.norm().item())


def test_ema_is_the_average_of_what_it_saw(ringfence_plugin):
    plugin = ringfence_plugin("ema", {"decay": 0.75})
    seen = [samples.parameters(seed=seed) for seed in range(3)]

    with pytest.raises(ValueError, match=r"gradient\.backward of 'ema' needs gradients too"):
        plugin.call(
            "backward", parameters=seen[0]
        )  # it takes none, but a result would be held to their shapes
    for step, parameters in enumerate(seen):
        called = plugin.call("backward", gradients=samples.gradients(), parameters=parameters, step=step)
        assert called.result is None

    for name, average in plugin.state().items():
        first, second, third = (parameters[name] for parameters in seen)
        expected = 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third
        torch.testing.assert_close(average, expected)


def test_clip_each_clips_as_torch_does_one_by_one(ringfence_plugin):
    gradients = samples.gradients()
    plugin = ringfence_plugin("clip-each", {"max_norm": 0.5})

    called = plugin.call("backward", gradients=gradients)

    over = 0
    for name, gradient in gradients.items():
        parameter = torch.nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient.clone()
        over += torch.nn.utils.clip_grad_norm_([parameter], 0.5).item() > 0.5
        torch.testing.assert_close(called.result[name], parameter.grad)
    assert called.logged == {"clipped": over}


def test_label_smoothing_is_that_of_the_loss(ringfence_plugin):
    batch, outputs = samples.batch(), samples.outputs()

    smoothed = ringfence_plugin("label-smoothing", {"smoothing": 0.2}).call("forward", batch=batch).result

    expected = cross_entropy(outputs, batch.targets, label_smoothing=0.2)
    torch.testing.assert_close(cross_entropy(outputs, smoothed.targets), expected)
    assert smoothed.inputs.equal(batch.inputs)


def test_mix_up_mixes_inputs_and_targets_alike(ringfence_plugin):
    batch = samples.batch()

    called = ringfence_plugin("mix-up", {"alpha": 1.0}).call("forward", batch=batch, step=3)

    share = called.logged["share"]
    clean = batch.soft_targets()
    assert 0 < share < 1
    partners = []
    for sample, target, mixed, label in zip(
        batch.inputs, clean, called.result.inputs, called.result.targets, strict=True
    ):
        away = [(mixed - torch.lerp(other, sample, share)).abs().max().item() for other in batch.inputs]
        partners.append(min(range(len(batch)), key=away.__getitem__))
        assert away[partners[-1]] < 1e-6
        torch.testing.assert_close(label, torch.lerp(clean[partners[-1]], target, share))
    assert sorted(partners) == list(range(len(batch)))


@pytest.mark.parametrize("max_norm", [0.5, 1000.0])
def test_clip_norm_clips_as_torch_does(ringfence_plugin, max_norm):
    gradients = samples.gradients()
    parameters = {name: torch.nn.Parameter(torch.zeros_like(each)) for name, each in gradients.items()}
    for name, parameter in parameters.items():
        parameter.grad = gradients[name].clone()

    called = ringfence_plugin("clip-norm", {"max_norm": max_norm}).call("backward", gradients=gradients)

    norm = torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm).item()
    assert called.logged == {"norm": pytest.approx(norm)}
    result = gradients if called.result is None else called.result
    for name, parameter in parameters.items():
        torch.testing.assert_close(result[name], parameter.grad)
    assert (called.result is None) == (norm < max_norm)


def test_update_ratio_compares_updates_with_parameters(ringfence_plugin):
    parameters, updates = samples.parameters(seed=1), samples.parameters(seed=2)

    plugin = ringfence_plugin("update-ratio")
    report = plugin.call("backward", parameters=parameters, updates=updates).result

    for name, update in updates.items():
        assert report.scalars[name] == pytest.approx((update.norm() / parameters[name].norm()).item())


def test_confidence_penalty_is_the_negative_entropy_with_its_gradient(ringfence_plugin):
    outputs = samples.outputs()

    term = ringfence_plugin("confidence-penalty", {"weight": 0.3}).call("forward", outputs=outputs).result

    outputs.requires_grad_()
    entropy = torch.distributions.Categorical(logits=outputs).entropy().mean()
    assert term.value == pytest.approx(-0.3 * entropy.item())
    torch.testing.assert_close(term.gradient, torch.autograd.grad(-0.3 * entropy, outputs)[0])
    assert -0.3 * math.log(10) < term.value < 0


# Each starts sandboxes of its own and trains twice.


@pytest.mark.soak
class TestGradientNorm(Conformance):
    plugin = "gradient-norm"
    trusted = True


@pytest.mark.soak
class TestEma(Conformance):
    plugin = "ema"
    options = options("ema")
    trusted = True


@pytest.mark.soak
class TestClipEach(Conformance):
    plugin = "clip-each"
    options = options("clip-each")
    trusted = True


@pytest.mark.soak
class TestLabelSmoothing(Conformance):
    plugin = "label-smoothing"
    options = options("label-smoothing")
    trusted = True


@pytest.mark.soak
class TestMixUp(Conformance):
    plugin = "mix-up"
    options = options("mix-up")
    trusted = True


@pytest.mark.soak
class TestClipNorm(Conformance):
    plugin = "clip-norm"
    options = options("clip-norm")
    trusted = True


@pytest.mark.soak
class TestUpdateRatio(Conformance):
    plugin = "update-ratio"
    trusted = True


@pytest.mark.soak
class TestConfidencePenalty(Conformance):
    plugin = "confidence-penalty"
    options = options("confidence-penalty")
    trusted = True


@pytest.mark.soak
@pytest.mark.parametrize("plugin", sorted(ENTRIES))
def test_it_trains_as_the_page_has_it(ringfence_job, plugin):
    run = ringfence_job(plugin, options(plugin), settings=settings(plugin))

    assert run.completed, run.error
