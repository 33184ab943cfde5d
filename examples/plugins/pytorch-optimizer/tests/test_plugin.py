"""The plugin does what it is for, and works wherever ringfence does."""

from typing import Any

import pytest
import pytorch_optimizer
import torch

from ringfence import PluginLoadError, PluginRaisedError, StepInfo
from ringfence.testing import Conformance, StartPlugin, samples

SHAPES = {"weight": (4, 3)}


class TestPytorchOptimizer(Conformance):
    plugin = "pytorch-optimizer"
    options = {"algorithm": "lamb", "lr": 0.01, "weight_decay": 0.1}  # noqa: RUF012 - read only
    # One test runs it without a sandbox too; so say this of your own code only.
    trusted = True


class TestOneThatDraws(Conformance):
    """Its noise has to be the same in every process, and in a run that was resumed."""

    plugin = "pytorch-optimizer"
    options = {  # noqa: RUF012 - read only
        "algorithm": "kron",
        "lr": 0.01,
        # With whole matrices it asks for gigabytes, and is refused them.
        "options": {"memory_save_mode": "all_diag"},
    }
    dtypes = ("float32",)


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
def test_what_does_not_fit_is_told_before_the_first_step(
    ringfence_plugin: StartPlugin, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(PluginLoadError) as error:
        ringfence_plugin("pytorch-optimizer", options)

    assert says in str(error.value)


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
