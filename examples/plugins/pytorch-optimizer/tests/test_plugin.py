"""The plugin does what it is for, and works wherever ringfence does."""

import re
from typing import Any

import pytest
import pytorch_optimizer
import torch
from ringfence_pytorch_optimizer import PytorchOptimizer

from ringfence import PluginLoadError, PluginRaisedError, StepInfo
from ringfence.testing import Conformance, StartPlugin, samples

SHAPES = {"weight": (4, 3)}


class TestPytorchOptimizer(Conformance):
    plugin = "pytorch-optimizer"
    options = {"algorithm": "lamb", "lr": 0.01, "weight_decay": 0.1}  # noqa: RUF012 - read only
    # One test runs it without a sandbox too; so say this of your own code only.
    trusted = True


def test_one_that_draws_draws_the_same_in_every_process(ringfence_plugin: StartPlugin) -> None:
    options = {"algorithm": "kron", "options": {"memory_save_mode": "all_diag", "balance_prob": 0.5}}
    given = samples.arguments()

    runs = []
    for _ in range(2):
        plugin = ringfence_plugin("pytorch-optimizer", options)
        called = (plugin.call("backward", step=number, **given) for number in range(4))
        # In a copy: the next call puts its result where this one lies.
        runs.append([each.result["linear.weight"].clone() for each in called])

    for first, second in zip(*runs, strict=True):
        assert first.equal(second)
    assert not runs[0][0].equal(runs[0][1])


def test_it_steps_as_the_class_does_with_the_schedule(ringfence_plugin: StartPlugin) -> None:
    options = {"algorithm": "AdaBelief", "lr": 0.1, "weight_decay": 0.5, "options": {"betas": [0.8, 0.9]}}
    plugin = ringfence_plugin("pytorch-optimizer", options)
    parameters = samples.parameters(SHAPES)
    weight = torch.nn.Parameter(parameters["weight"].clone())
    reference = pytorch_optimizer.AdaBelief([weight], lr=0.1, weight_decay=0.5, betas=(0.8, 0.9))

    for number, factor in enumerate([0.5, 1.0, 0.25]):
        gradients = samples.gradients(SHAPES, seed=number)
        called = plugin.call(
            "backward",
            parameters=parameters,
            gradients=gradients,
            loss=1.0,
            step=StepInfo(number, lr_factor=factor),
        )
        parameters = called.result
        assert called.logged == {"lr": pytest.approx(0.1 * factor)}
        weight.grad = gradients["weight"].clone()
        reference.param_groups[0]["lr"] = 0.1 * factor
        reference.step()

    assert parameters["weight"].equal(weight)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"algorithm": "adopd"}, "has no algorithm 'adopd'; did you mean 'adopt'"),
        ({"algorithm": "???"}, "known: a2grad, "),
        ({"algorithm": "lamb", "options": {"bettas": [0.9]}}, "has no option 'bettas'; did you mean 'betas'"),
        ({"algorithm": "lamb", "options": {"lr": 0.1}}, "lr belongs beside algorithm, not in options"),
        ({"algorithm": "lamb", "options": {"betas": [0.9, 2.0]}}, "algorithm 'lamb': "),
        ({"algorithm": "alig", "lr": 0.1}, "algorithm 'alig' has no lr; leave it out"),
        ({"algorithm": "AdaHessian"}, "algorithm 'AdaHessian' cannot be used: "),
    ],
)
def test_what_does_not_fit_is_told_with_what_would(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        PytorchOptimizer(**options)


def test_it_is_told_before_the_first_step(ringfence_plugin: StartPlugin) -> None:
    with pytest.raises(PluginLoadError, match="pytorch_optimizer has no algorithm 'adopd'"):
        ringfence_plugin("pytorch-optimizer", {"algorithm": "adopd"})


def test_a_state_of_another_algorithm_is_refused(ringfence_plugin: StartPlugin) -> None:
    given = samples.arguments()
    lamb = ringfence_plugin("pytorch-optimizer", {"algorithm": "lamb"})
    lion = ringfence_plugin("pytorch-optimizer", {"algorithm": "lion"})
    lamb.call("backward", **given)

    with pytest.raises(PluginRaisedError, match="the state was saved by 'lamb'; this is 'lion'"):
        lion.load_state(lamb.state())


def test_a_run_that_goes_on_with_another_rate_keeps_the_rest(ringfence_plugin: StartPlugin) -> None:
    given = samples.arguments()
    before = ringfence_plugin("pytorch-optimizer", {"algorithm": "lion", "lr": 0.1})
    after = ringfence_plugin("pytorch-optimizer", {"algorithm": "lion", "lr": 0.2})
    before.call("backward", **given)
    after.load_state(before.state())

    called = after.call("backward", step=1, **given)

    assert called.logged == {"lr": 0.2}
    momentum = before.state()["state"]["linear.weight"]["exp_avg"]
    assert momentum.any()
    assert not after.state()["state"]["linear.weight"]["exp_avg"].equal(momentum)
