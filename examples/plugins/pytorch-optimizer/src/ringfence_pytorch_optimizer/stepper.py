"""An optimizer of torch's kind, fed with parameters and gradients from outside."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from ringfence import Gradients, Parameters

from .algorithms import Algorithm
from .exact import is_plain, packed, unpacked


class Stepper:
    """Take the steps of one optimizer, which is built over ``point``.

    Args:
        algorithm: What to build.
        point: The parameters, writable.

    Raises:
        ValueError: The algorithm does not take such parameters.
    """

    def __init__(self, algorithm: Algorithm, point: Parameters) -> None:
        self._algorithm = algorithm
        self._parameters = {name: nn.Parameter(tensor) for name, tensor in point.items()}
        self._optimizer = algorithm.build(self._parameters.values())

    def step(
        self, point: Parameters, gradients: Gradients, loss: float, *, lr_factor: float, seed: int
    ) -> float | None:
        """Change ``point`` in place.

        Args:
            point: The parameters, writable; the run's own values.
            gradients: Writable too, as some algorithms change them on the way.
            loss: At ``point``.
            lr_factor: What the schedule multiplies the learning rate by.
            seed: For what an algorithm draws.

        Returns:
            The learning rate of the first group, scaled; None if the algorithm has none.

        Raises:
            RuntimeError: The algorithm asks for the loss at a second point.
        """
        for name, parameter in self._parameters.items():
            parameter.data = point[name]
            parameter.grad = gradients.get(name)
        with self._scaled(lr_factor) as lr, _seeded(seed), warnings.catch_warnings():
            # Of torch, on what an algorithm calls; who trains can do nothing about it.
            warnings.simplefilter("ignore")
            self._optimizer.step(_Loss(loss))
        for parameter in self._parameters.values():
            parameter.grad = None
        return lr

    def state_dict(self) -> dict[str, Any]:
        """Return what a step depends on, as plain data."""
        return {
            "algorithm": self._algorithm.name,
            "arguments": packed(self._algorithm.arguments),
            "groups": [packed(_settings(group)) for group in self._optimizer.param_groups],
            "state": {
                name: packed(self._optimizer.state[parameter])
                for name, parameter in self._parameters.items()
                if parameter in self._optimizer.state
            },
            "shared": {key: packed(value) for key, value in _shared(self._optimizer).items()},
            "counters": _counters(self._optimizer),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back, every tensor in its own precision: torch's own method would cast to the parameter's.

        What the job says otherwise than the one that saved the state holds from now on.

        Raises:
            ValueError: It was saved of other parameters.
        """
        strangers = state["state"].keys() - self._parameters.keys()
        if strangers or len(state["groups"]) != len(self._optimizer.param_groups):
            raise ValueError(f"the state belongs to other parameters: {sorted(strangers) or 'other groups'}")
        then, now = unpacked(state["arguments"]), self._algorithm.arguments
        changed = {key for key in {*then, *now} if then.get(key) != now.get(key)}
        for group, saved in zip(self._optimizer.param_groups, state["groups"], strict=True):
            group.update({key: value for key, value in unpacked(saved).items() if key not in changed})
        for name, values in state["state"].items():
            self._optimizer.state[self._parameters[name]] = unpacked(values)
        self._optimizer.state.update(unpacked(state["shared"]))
        vars(self._optimizer).update(
            {name: value for name, value in state["counters"].items() if name not in changed}
        )

    @contextmanager
    def _scaled(self, factor: float) -> Iterator[float | None]:
        """Multiply the learning rates for one step; what the algorithm makes of its own rate there, stays."""
        groups = [group for group in self._optimizer.param_groups if group.get("lr") is not None]
        own = [group["lr"] for group in groups]
        scaled = [lr * factor for lr in own]
        for group, lr in zip(groups, scaled, strict=True):
            group["lr"] = lr
        yield scaled[0] if scaled else None
        for group, before, during in zip(groups, own, scaled, strict=True):
            group["lr"] = before if group["lr"] == during else group["lr"] / (factor or 1.0)


class _Loss:
    """What an optimizer calls for the loss: known where the gradients were taken, and nowhere else."""

    def __init__(self, value: float) -> None:
        self._value = value
        self._asked = False

    def __call__(self) -> float:
        if self._asked:
            raise RuntimeError(
                "the algorithm asks for the loss at a second point, which this plugin does not offer"
            )
        self._asked = True
        return self._value


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let all global generators draw the same in every process; their states are put back."""
    pythons = random.getstate()
    torchs = torch.get_rng_state()
    numpys = np.random.get_state()  # noqa: NPY002 - the one that algorithms draw from
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(pythons)
        torch.set_rng_state(torchs)
        np.random.set_state(numpys)  # noqa: NPY002


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a group holds beside its parameters; a function or dtype comes from the options anyway."""
    return {key: value for key, value in group.items() if key != "params" and is_plain(value)}


def _shared(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the part of the state that is of no parameter."""
    state: Mapping[Any, Any] = optimizer.state
    return {key: value for key, value in state.items() if isinstance(key, str)}


def _counters(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the numbers that an algorithm keeps beside its state, where torch's method misses them."""
    return {
        name: value
        for name, value in vars(optimizer).items()
        if isinstance(value, int | float) and not name.startswith("_")
    }
