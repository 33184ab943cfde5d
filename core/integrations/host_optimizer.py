"""An optimizer of torch whose step is that of a plugin host, for frameworks that want one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from ..engine.tensor_names import named_parameters

_KEY = "ringfence"
#: What is wrong with an optimizer that ``reaches_none``.
NONE_REACHED = (
    "has none of the model's parameters that learn, so no step would change it; make the optimizer of "
    "model.parameters(), of the very model that plugin_host is given"
)


def learning_without(optimizer: Optimizer, model: nn.Module) -> list[str]:
    """Return the names of parameters that require a gradient and that ``optimizer`` does not have."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    learning = ((name, p) for name, p in named_parameters(model).items() if p.requires_grad)
    return [name for name, parameter in learning if id(parameter) not in held]


def reaches_none(optimizer: Optimizer, model: nn.Module) -> bool:
    """Tell whether an optimizer has not one of the parameters that are to learn."""
    learning = sum(parameter.requires_grad for parameter in model.parameters())
    return 0 < learning == len(learning_without(optimizer, model))


class _Host(Protocol):
    """What the optimizer needs of its host."""

    @property
    def model(self) -> nn.Module:
        """The model."""

    def step(self, closure: Callable[[], object] | None = None) -> None:
        """Take a step."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the plugins."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""


class _Factor(Optimizer):
    """Holds the factor of a plugin's own learning rate, for schedulers; its step is never taken."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__([p for p in model.parameters() if p.requires_grad], {"lr": 1.0})


class HostOptimizer(Optimizer):
    """The optimizer of a plugin host: the plugin's, or the torch optimizer that the host was given.

    Args:
        host: Takes the steps.
        inner: Of torch; None where a plugin is the optimizer.
        runs_again: Whether a ``closure`` runs all batches of a step, so that it can make a further pass.
    """

    def __init__(self, host: _Host, inner: Optimizer | None, *, runs_again: bool = True) -> None:
        # Not torch's constructor: groups and state are the other's.
        self._host = host
        self._is_plugins = inner is None
        self._runs_again = runs_again
        self._inner = _Factor(host.model) if inner is None else inner

    @property
    def rate(self) -> float:
        """What a plugin's own learning rate is multiplied by; 1 where torch's optimizer has its own."""
        return float(self._inner.param_groups[0]["lr"]) if self._is_plugins else 1.0

    def note_step(self) -> None:
        """Note that a step was taken, for schedulers that were put on this optimizer: they ask for that."""
        self._opt_called = True

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters, with ``lr``."""
        return self._inner.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self._inner.param_groups = groups

    @property
    def state(self) -> Any:
        """State of torch's optimizer; that of a plugin is in ``state_dict`` only."""
        return self._inner.state

    @state.setter
    def state(self, state: Any) -> None:
        self._inner.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """Defaults of a group."""
        return self._inner.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self._inner.defaults = defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to torch's optimizer."""
        self._inner.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 - torch's signature
        """Drop the gradients."""
        self._inner.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Hand the gradients to the plugins, and take the step.

        Args:
            closure: Runs forward and backward; again, for an optimizer that asks for further passes.

        Returns:
            What ``closure`` returned first.
        """
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        self._host.step(closure if self._runs_again else None)
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return the state of torch's optimizer, and that of the plugins beside it."""
        return {**self._inner.state_dict(), _KEY: self._host.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take both back; one without plugins, as of a run before there were any, leaves those alone."""
        state = dict(state_dict)
        plugins = state.pop(_KEY, None)
        self._inner.load_state_dict(state)
        if plugins is not None:
            self._host.load_state_dict(plugins)

    def __repr__(self) -> str:
        return f"HostOptimizer({self._inner!r})"
