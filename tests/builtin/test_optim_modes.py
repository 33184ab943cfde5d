"""Optimizers with modes: trained where they want gradients, evaluated and saved where they want that."""

import json

import pytest
import pytorch_optimizer
import torch
from torch import nn

from ringfence import AnotherPass, StepInfo, TensorMap
from ringfence.job.job_file import check_job
from ringfence.job.yaml_document import parse_yaml
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare

STEPS = 40
JOB = """
model: {{name: mlp, hidden: [8]}}
data: {{name: mnist10k, limit: 64}}
steps: 6
batch_size: 16
threads: 1
plugins:
  - optim: {{algorithm: pytorch_optimizer.ScheduleFreeAdamW, lr: 0.01}}
    isolation: {isolation}
"""
#: Class of ``pytorch_optimizer`` to its options. To change the modes at every step costs a rounding each.
CLASSES = {
    "ScheduleFreeAdamW": {"lr": 0.02, "weight_decay": 0.01},
    "ScheduleFreeRAdam": {"lr": 0.02},
    "ScheduleFreeSGD": {"lr": 0.5},
    "SPlus": {"lr": 0.1},
}


def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def backward(model, step):
    generator = torch.Generator().manual_seed(step)
    inputs = torch.rand(16, 6, generator=generator)
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs), (inputs[:, :3].argmax(1)))
    loss.backward()
    return loss.item()


def laid_out(tensors):
    laid = TensorMap.like(tensors)
    for name, tensor in tensors.items():
        laid[name].copy_(tensor.detach())
    return laid


def write(model, tensors):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])


def plugin(algorithm, **options):
    given = {"algorithm": algorithm, "no_decay": [], **options}
    return LocalPlugin(
        PluginSpec("optim", "ringfence", "0", "ringfence.builtin.optim", "Optim", "optimizer", options=given)
    )


def train(optim, parameters, steps):
    """Do as the engine does; return the parameters between steps, and those of the first pass."""
    model, first = net(), None
    for number in steps:
        step, point = StepInfo(number), parameters
        if "forward" in optim.accepts:
            point = laid_out(optim.call("forward", {"parameters": parameters}, step))
        first = first or point.clone()
        for pass_index in range(3):
            write(model, point)
            loss = backward(model, number)
            gradients = laid_out({name: p.grad for name, p in model.named_parameters()})
            given = {"parameters": point, "gradients": gradients, "loss": loss}
            result = optim.call("backward", given, StepInfo(number, pass_index=pass_index))
            if not isinstance(result, AnotherPass):
                break
            point = laid_out(result.parameters)
        parameters = laid_out(result)
    return parameters, first


def alone(name, options, steps):
    """The loop that the library asks for; returns the weights for evaluation and those for training."""
    model = net()
    optimizer = getattr(pytorch_optimizer, name)(model.parameters(), **options)
    optimizer.train()
    for number in range(steps):
        backward(model, number)
        optimizer.step()
    trained = laid_out(dict(model.named_parameters()))
    optimizer.eval()
    return laid_out(dict(model.named_parameters())), trained


def start():
    return laid_out(dict(net().named_parameters()))


@pytest.mark.parametrize("name", CLASSES)
def test_weights_between_steps_are_those_to_evaluate(name):
    expected, trained = alone(name, CLASSES[name], STEPS)

    found, _ = train(plugin(f"pytorch_optimizer.{name}", **CLASSES[name]), start(), range(STEPS))

    apart = max((expected[key] - trained[key]).abs().max().item() for key in expected)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-5)
    assert apart > 1e-3, "the two are the same here, so that this shows nothing"


@pytest.mark.parametrize("name", [name for name in CLASSES if name.startswith("ScheduleFree")])
def test_a_run_that_is_resumed_has_the_same_bits(name):
    path, options = f"pytorch_optimizer.{name}", CLASSES[name]
    straight, _ = train(plugin(path, **options), start(), range(STEPS))
    first = plugin(path, **options)
    parameters, _ = train(first, start(), range(15))
    second = plugin(path, **options)
    second.load_state_dict(first.state_dict())

    resumed, point = train(second, parameters, range(15, STEPS))

    assert torch.equal(resumed.buffer, straight.buffer)
    assert not torch.equal(point.buffer, parameters.buffer), "gradients were taken where it is evaluated"


@pytest.mark.parametrize("wrapper", ["lookahead", "sam"])
def test_modes_of_what_an_algorithm_stands_on_are_changed_too(wrapper):
    base = {"base": "pytorch_optimizer.ScheduleFreeSGD"}
    optim = plugin(wrapper, lr=0.5, options=base)
    parameters, _ = train(optim, start(), range(5))

    _, point = train(optim, parameters, range(5, 6))

    assert not torch.equal(point.buffer, parameters.buffer)


def test_modes_are_called_in_a_sandbox_as_in_the_trainer(tmp_path):
    outcomes = {}
    for isolation in ("sandbox", "trusted"):
        job = JOB.format(isolation=isolation)
        prepared = prepare(check_job(parse_yaml(job, "job")), tmp_path)
        outcomes[isolation] = execute(prepared, tmp_path / isolation, RunOptions(report=False))
    hooks = json.loads((tmp_path / "sandbox" / "run.json").read_text())["hooks"]

    assert outcomes["sandbox"].result.weights_sha256 == outcomes["trusted"].result.weights_sha256
    assert hooks == {"optimizer_forward": ["optim"], "optimizer_backward": ["optim"]}


@pytest.mark.parametrize("algorithm", ["adamw", "torch_optimizer.Lamb", "lbfgs", "muon"])
def test_others_are_called_once_a_step(algorithm):
    assert list(plugin(algorithm).accepts) == ["backward"]
