"""What happens within one step: accumulation, further passes, terms of the loss."""

import types

import pluggy
import pytest
import torch
from engine_helpers import (
    CALLS,
    HalfLoss,
    Insatiable,
    Jitter,
    Listener,
    LogsLosses,
    LookAhead,
    OutputPenalty,
    RecordsAugment,
    RecordsGradient,
    RecordsMonitor,
    RecordsOptimizer,
    Sam,
    Watcher,
    config,
    convnet,
    dropout_mlp,
    hooks_of,
    image_data,
    mlp,
    plain_loop,
    plugin,
    run,
    same_weights,
    sgd,
)
from torch.nn import functional

from ringfence.engine.buffers import copy_buffers
from ringfence.hooks import specs
from ringfence.hooks.errors import RunAbortedError
from ringfence.hooks.role import Method, Moment, Role, hookspec
from ringfence.hooks.types import AnotherPass, Parameters, StepInfo, derive_seed, passthrough
from ringfence.plugins.manager import Hooks
from ringfence.plugins.moments import Firing
from ringfence.reproducibility.generator_states import TorchRng


def record_calls(**changes):
    """Return the calls of a run with one plugin of each role."""
    CALLS.clear()
    plugins = [plugin(cls) for cls in (RecordsMonitor, RecordsOptimizer, RecordsGradient, RecordsAugment)]
    run(mlp(), image_data(train=16), hooks_of(*plugins), config(epochs=1, **changes))
    return list(CALLS)


def test_hooks_that_nobody_implements_are_neither_looked_up_nor_called_in_a_step(monkeypatch):
    hooks = hooks_of(sgd())

    def refuse(*_arguments, **_more):
        raise AssertionError("called, though nobody implements it")

    fired = []

    def fire(self, at, values, step):
        fired.append(at)
        return Hooks.fire(self, at, values, step)

    monkeypatch.setattr(pluggy.HookCaller, "get_hookimpls", refuse)
    monkeypatch.setattr(Hooks, "poll", refuse)
    monkeypatch.setattr(Firing, "is_due", refuse)
    hooks.fire = types.MethodType(fire, hooks)
    assert run(mlp(), image_data(), hooks, config(epochs=1)).steps == 7
    assert fired == [hooks.at.update] * 7


def test_accumulation_repeats_the_forward_hooks_only():
    calls = [call.partition("(")[0] for call in record_calls(grad_accum_steps=2)]
    assert calls == [
        "augment.forward", "optimizer.forward", "gradient.forward", "monitor.forward",
        "augment.forward", "gradient.forward",
        "gradient.backward", "optimizer.backward", "monitor.backward",
        "augment.backward", "augment.backward",
    ]  # fmt: skip


def test_accumulation_gives_the_gradient_of_the_mean_over_all_samples():
    whole, parts = mlp(), mlp()
    run(whole, image_data(train=20), hooks_of(sgd()), config(epochs=1, batch_size=20))
    # 8 + 8 + 4: the small batch must weigh half.
    run(parts, image_data(train=20), hooks_of(sgd()), config(epochs=1, batch_size=8, grad_accum_steps=3))
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("make_model", [mlp, convnet])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_further_passes_give_the_weights_of_a_plain_sam_loop(make_model, accumulate):
    """Both passes see the same batches and the same dropout; the plain loop resets the generator itself.

    Batch norm counts each batch once, as recipes for sharpness-aware minimisation have it.
    """
    data = image_data(train=40)
    ours, plain = make_model(), make_model()
    run(ours, data, hooks_of(plugin(Sam)), config(epochs=2, grad_accum_steps=accumulate))

    torch.manual_seed(derive_seed(7, "run"))
    plain.train()

    def gradients(parts, size):
        plain.zero_grad()
        for indices in parts:
            inputs = (data.train.inputs[indices].float() / 255 - 0.4) / 0.3
            loss = functional.cross_entropy(plain(inputs), data.train.targets[indices])
            (loss if len(parts) == 1 else loss / (size / len(indices))).backward()
        return [parameter.grad for parameter in plain.parameters()]

    for epoch in range(2):
        generator = torch.Generator().manual_seed(derive_seed(7, "order", epoch))
        for group in torch.randperm(40, generator=generator).split(8 * accumulate):
            before = TorchRng.capture(torch.device("cpu"))
            first = gradients(group.split(8), len(group))
            after = TorchRng.capture(torch.device("cpu"))
            home = [parameter.detach().clone() for parameter in plain.parameters()]
            scale = 0.05 / torch.stack([g.norm() for g in first]).norm()
            with torch.no_grad():
                for parameter, gradient in zip(plain.parameters(), first, strict=True):
                    parameter.copy_(parameter + scale * gradient)
            before.restore(torch.device("cpu"))
            statistics = copy_buffers(plain)
            second = gradients(group.split(8), len(group))
            plain.load_state_dict(statistics, strict=False)
            after.restore(torch.device("cpu"))
            with torch.no_grad():
                for parameter, start, gradient in zip(plain.parameters(), home, second, strict=True):
                    parameter.copy_(start - 0.1 * gradient)
    assert same_weights(ours, plain)


def test_random_numbers_after_a_step_do_not_depend_on_its_passes():
    one, two = dropout_mlp(), dropout_mlp()
    run(one, image_data(), hooks_of(sgd()), config(epochs=1))
    state = torch.get_rng_state()
    run(two, image_data(), hooks_of(plugin(Sam)), config(epochs=1))
    assert torch.equal(state, torch.get_rng_state())


def test_endless_passes_are_refused_by_name():
    hooks = hooks_of(plugin(Insatiable, settings={"on_failure": "abort"}))
    message = "'insatiable' in 'optimizer.backward' at step 0: asked for more than 100 further passes"
    with pytest.raises(RunAbortedError, match=message):
        run(mlp(), image_data(train=8), hooks, config(epochs=1))


def test_optimizer_may_move_before_the_pass():
    ours, plain = mlp(), mlp()
    data = image_data(train=8)
    run(ours, data, hooks_of(plugin(LookAhead)), config(epochs=1))
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(0.99)
    plain_loop(plain, data, lambda parameters: torch.optim.SGD(parameters, lr=0.1), epochs=1, batch_size=8)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_loss_scale_and_term_act_on_value_and_gradient_in_order():
    """(loss * 0.5) + term, against autograd on the same expression."""
    ours, plain = mlp(), mlp()
    data = image_data(train=8)
    hooks = hooks_of(plugin(HalfLoss), plugin(OutputPenalty), plugin(LogsLosses, "optim"))
    run(ours, data, hooks, config(epochs=1))

    order = torch.randperm(8, generator=torch.Generator().manual_seed(derive_seed(7, "order", 0)))
    outputs = plain((data.train.inputs[order].float() / 255 - 0.4) / 0.3)
    loss = functional.cross_entropy(outputs, data.train.targets[order]) * 0.5 + 0.01 * outputs.square().mean()
    loss.backward()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.sub_(0.1 * parameter.grad)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_monitors_fire_when_due_and_are_given_the_update():
    listener = Listener()
    hooks = hooks_of(sgd(), plugin(Watcher, settings={"every": 3}), observer=listener)
    model = mlp()
    run(model, image_data(train=56), hooks, config(epochs=1))
    assert [(step, *scalars) for _, step, scalars in listener.reports] == [
        (0, "loss", "mean"), (0, "update"),
        (3, "loss", "mean"), (3, "update"),
        (6, "loss", "mean"), (6, "update"),
    ]  # fmt: skip
    first, second = mlp(), mlp()
    run(first, image_data(train=56), hooks_of(sgd()), config(steps=6))
    run(second, image_data(train=56), hooks_of(sgd()), config(steps=7))
    difference = torch.cat(
        [(b - a).detach().flatten() for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    )
    assert listener.reports[-1][2]["update"] == pytest.approx(float(difference.norm()), rel=1e-5)


def test_watching_changes_no_weight():
    watched, alone = convnet(), convnet()
    run(watched, image_data(), hooks_of(sgd(), plugin(Watcher)), config())
    run(alone, image_data(), hooks_of(sgd()), config())
    assert same_weights(watched, alone)


def test_augment_that_learns_is_told_the_loss_of_each_sample():
    jitter = plugin(Jitter)
    told = []
    original = jitter._instance.backward
    jitter._instance.backward = lambda losses, step: told.append(losses) or original(losses, step)
    run(mlp(), image_data(train=20), hooks_of(jitter, sgd()), config(epochs=1))
    assert [losses.shape[0] for losses in told] == [8, 8, 4]
    assert all(losses.dtype == torch.float32 for losses in told)
    assert jitter._instance.scale != 0.1


def in_one_pass(started):
    started._instance.one_pass = True
    return started


def test_nothing_is_kept_for_a_further_pass_that_is_never_asked_for(monkeypatch):
    captured, found = [], []
    capture = TorchRng.capture
    monkeypatch.setattr(TorchRng, "capture", lambda device: captured.append(device) or capture(device))
    for optimizer in (sgd(), in_one_pass(sgd())):
        captured.clear()
        result = run(mlp(), image_data(), hooks_of(optimizer), config(epochs=1))
        found.append((result.weights_sha256, len(captured)))

    (expected, kept), (weights, kept_for_one_pass) = found
    assert weights == expected
    assert kept - kept_for_one_pass == 7


def test_who_says_that_it_takes_one_pass_and_asks_for_another_is_told():
    hooks = hooks_of(in_one_pass(plugin(Insatiable, settings={"on_failure": "abort"})))
    with pytest.raises(RunAbortedError, match="says by its attribute one_pass that it never does"):
        run(mlp(), image_data(train=8), hooks, config(epochs=1))


@hookspec
def average_forward() -> None:
    """Do nothing."""


@hookspec
def average_backward(parameters: Parameters, step: StepInfo) -> Parameters | AnotherPass | None:
    """Change what the optimizer has made of the parameters."""


class Average:
    role = "average"
    forward = passthrough

    def backward(self, parameters):
        return {name: value * 0.5 for name, value in parameters.items()}


@pytest.fixture
def _averages(monkeypatch):
    """Have a role whose plugins change the parameters after the optimizer."""
    methods = Method(average_forward, Moment.BATCH), Method(average_backward, Moment.UPDATE, "parameters")
    monkeypatch.setitem(specs.ROLES, "average", Role("average", *methods))
    monkeypatch.setattr(specs, "HOOKS", (*specs.HOOKS, average_forward, average_backward))


@pytest.mark.usefixtures("_averages")
def test_what_changes_after_the_optimizer_is_given_the_update_and_never_the_point_of_a_pass():
    ours, halved, data = mlp(), mlp(), image_data(train=8)
    run(halved, data, hooks_of(plugin(Sam)), config(epochs=1))
    run(ours, data, hooks_of(plugin(Sam), plugin(Average)), config(epochs=1))
    for one, other in zip(ours.parameters(), halved.parameters(), strict=True):
        assert torch.equal(one, other * 0.5)


@pytest.mark.usefixtures("_averages")
@pytest.mark.parametrize("one_pass", [False, True])
def test_who_asks_for_too_many_passes_is_told_whoever_changes_parameters_as_well(one_pass):
    plugins = [plugin(Insatiable, settings={"on_failure": "abort"}), plugin(Average)]
    for each in plugins:
        each._instance.one_pass = one_pass
    with pytest.raises(RunAbortedError, match=r"'insatiable' in 'optimizer\.backward' at step 0: asked for "):
        run(mlp(), image_data(train=8), hooks_of(*plugins), config(epochs=1))


def test_a_run_has_one_pass_a_step_only_if_whoever_updates_says_so():
    assert hooks_of(in_one_pass(sgd())).one_pass
    assert not hooks_of(plugin(Sam)).one_pass
