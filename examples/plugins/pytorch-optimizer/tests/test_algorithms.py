"""Every optimizer of pytorch_optimizer on a small net, beside the class alone; README.md has the table."""

import functools
import inspect
import random
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_optimizer
import torch
from ringfence_pytorch_optimizer import PytorchOptimizer
from ringfence_pytorch_optimizer.algorithms import MUON_LIKE, REFUSED, Algorithm, usable
from torch import nn

from ringfence import Parameters, StepInfo

README = Path(__file__).parents[1] / "README.md"
STEPS = 12
#: Name to the options that it cannot do without, and why.
NEEDED: dict[str, tuple[dict[str, Any], str]] = {
    "bsam": ({"num_data": 192}, "it has no default"),
    "ranger21": ({"num_iterations": STEPS}, "it has no default"),
    "shampoo": ({"matrix_eps": 1e-3}, "at its default the class alone comes to weights that are not finite"),
}
NAMES = pytorch_optimizer.get_supported_optimizers()
Weights = dict[str, torch.Tensor]


class Net(nn.Module):
    """Weights of four, two and one dimensions, and one that the loss does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 36, 3)
        self.unused = nn.Linear(3, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return one output a class."""
        out: torch.Tensor = self.head(self.norm(self.conv(inputs)).relu().flatten(1))
        return out


def make_net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net()


def backward(net: Net, number: int) -> torch.Tensor:
    """Set the gradients of one step; return the loss."""
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(16, 1, 8, 8, generator=generator)
    loss = nn.functional.cross_entropy(net(inputs), torch.randint(3, (16,), generator=generator))
    net.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def info(number: int) -> StepInfo:
    return StepInfo(number, steps_total=STEPS, lr_factor=1.0 - number / STEPS, seed=1)


def train(plugin: PytorchOptimizer, net: Net, steps: Iterable[int]) -> Weights:
    """Take steps as the engine does: the plugin is given values, and returns others."""
    own = dict(net.named_parameters())
    for number in steps:
        loss = backward(net, number)
        parameters = layout({name: parameter.detach() for name, parameter in own.items()})
        gradients = layout({name: p.grad for name, p in own.items() if p.grad is not None})
        updated = plugin.backward(parameters, gradients, loss.item(), info(number))
        for name, parameter in own.items():
            parameter.data.copy_(updated[name])
    return {name: parameter.detach().clone() for name, parameter in own.items()}


def layout(tensors: Weights) -> Parameters:
    made = Parameters.like(tensors)
    for name, tensor in tensors.items():
        made[name].copy_(tensor)
    return made


def train_alone(name: str, net: Net) -> Weights:
    """Take the same steps with the class, as a script would."""
    parameters = list(net.parameters())
    groups: list[Any] = parameters
    if name in MUON_LIKE:
        sides = [[p for p in parameters if p.dim() >= 2], [p for p in parameters if p.dim() < 2]]
        groups = [{"params": sides[0], "use_muon": True}, {"params": sides[1], "use_muon": False}]
    optimizer = pytorch_optimizer.load_optimizer(name)(groups, **needed(name))
    for number in range(STEPS):
        loss = backward(net, number)
        own = [group.get("lr") for group in optimizer.param_groups]
        scaled = [None if lr is None else lr * info(number).lr_factor for lr in own]
        for group, lr in zip(optimizer.param_groups, scaled, strict=True):
            if lr is not None:
                group["lr"] = lr
        torch.manual_seed(info(number).call_seed)
        random.seed(info(number).call_seed)
        np.random.seed(info(number).call_seed % 2**32)  # noqa: NPY002 - the one that Kron draws from
        optimizer.step(loss.item)
        # What an algorithm makes of its own rate, it makes of the scaled one.
        for group, lr, during in zip(optimizer.param_groups, own, scaled, strict=True):
            if lr is not None:
                group["lr"] = lr if group["lr"] == during else group["lr"] / info(number).lr_factor
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


@dataclass(frozen=True)
class Finding:
    """What became of one algorithm; it works if ``fault`` is empty."""

    fault: str
    scheduled: bool = False


@functools.cache
def finding(name: str) -> Finding:
    """Try one, whether or not it is refused."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            return tried(name)
        except (
            *(AssertionError, AttributeError, ImportError, IndexError, KeyError),
            *(NotImplementedError, RuntimeError, TypeError, ValueError),
        ) as error:
            return Finding(f"{type(error).__name__}: {error}")


def tried(name: str) -> Finding:
    if hasattr(pytorch_optimizer.load_optimizer(name), "eval"):
        return Finding("has modes")
    half, straight = make_net(), make_net()
    plugin = unchecked(name)
    train(plugin, half, range(STEPS // 2))
    saved = carried(plugin.state_dict())
    resumed = unchecked(name)
    resumed.load_state_dict(saved)
    resumed_weights = train(resumed, half, range(STEPS // 2, STEPS))
    whole = unchecked(name)
    weights = train(whole, straight, range(STEPS))
    start = dict(make_net().named_parameters())
    if not all(bool(torch.isfinite(weight).all()) for weight in weights.values()):
        return Finding("not finite")
    if not any(not weight.equal(start[key].detach()) for key, weight in weights.items()):
        return Finding("moves nothing")
    if not same(weights, train_alone(name, make_net())):
        return Finding("differs from the class alone")
    if not same(weights, resumed_weights):
        return Finding("state is not whole")
    settings = whole.state_dict()["groups"]
    return Finding("", scheduled=any(group.get("lr") is not None for group in settings))


def unchecked(name: str) -> PytorchOptimizer:
    """Return a plugin that takes a refused algorithm too."""
    plugin = PytorchOptimizer(algorithm=usable()[0])
    plugin._algorithm = Algorithm(name, needed(name))  # past the refusal
    return plugin


def carried(state: Any) -> Any:
    """Return what comes back of a state: a copy, with lists where there were tuples.

    Raises:
        TypeError: It holds what no state may.
    """
    match state:
        case torch.Tensor():
            return state.clone()
        case dict():
            return {key: carried(value) for key, value in state.items()}
        case list() | tuple():
            return [carried(value) for value in state]
        case None | bool() | int() | float() | str():
            return state
    raise TypeError(f"its state holds a {type(state).__name__}")


def needed(name: str) -> dict[str, Any]:
    return NEEDED[name][0] if name in NEEDED else {}


def same(left: Weights, right: Weights) -> bool:
    return all(weight.equal(right[name]) for name, weight in left.items())


@pytest.mark.parametrize("name", NAMES)
def test_those_that_are_not_refused_give_the_weights_of_the_class_alone_and_resume_to_them(name: str) -> None:
    found = finding(name)

    if name in REFUSED:
        assert found.fault, f"'{name}' works; take it out of REFUSED"
    else:
        assert not found.fault


def test_the_readme_has_the_table_of_what_works() -> None:
    assert table() in README.read_text(encoding="utf-8")


def test_every_refusal_is_of_an_algorithm_that_exists() -> None:
    assert set(REFUSED) <= set(NAMES)


def table() -> str:
    head = ["| algorithm | class | works | note |", "| --- | --- | --- | --- |"]
    return "\n".join(head + [f"| {' | '.join(row(name))} |" for name in NAMES])


def row(name: str) -> tuple[str, str, str, str]:
    cls = pytorch_optimizer.load_optimizer(name)
    found = finding(name)
    return f"`{name}`", f"`{cls.__name__}`", "no" if found.fault else "yes", "; ".join(notes(name, found))


def notes(name: str, found: Finding) -> Iterable[str]:
    if found.fault:
        yield REFUSED.get(name, found.fault)
        return
    if name in NEEDED:
        yield f"give it `{next(iter(needed(name)))}`: {NEEDED[name][1]}"
    if "lr" not in inspect.signature(pytorch_optimizer.load_optimizer(name)).parameters:
        yield "takes no `lr`"
    if not found.scheduled:
        yield "has no learning rate, so the schedule does not act"
    if name in MUON_LIKE:
        yield "weights as matrices, the rest as the class does it"


if __name__ == "__main__":
    print(table())
