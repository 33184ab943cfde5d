"""Optimizers made of other optimizers: look-ahead, sharpness-aware, and Muon for whole networks.

Each has the four things that ``Optim`` uses: ``param_groups``, ``step``,
``state_dict`` and ``load_state_dict``.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .state import restore
from .stepper import Stepper

Closure = Callable[[], Tensor]

_MATRIX_DIMS = 2


def parameters_of(optimizer: Stepper) -> list[Tensor]:
    """Return the parameters of all groups, in order."""
    return list(itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups))


def needs_closure(optimizer: Stepper) -> bool:
    """Tell whether ``step`` must be given a closure that evaluates the loss."""
    if isinstance(optimizer, Lookahead):
        return needs_closure(optimizer.base)
    argument = inspect.signature(optimizer.step).parameters.get("closure")
    return argument is not None and argument.default is argument.empty


def with_modes(optimizer: Stepper) -> Any:
    """Return the optimizer that has the modes ``train`` and ``eval``: this, what it stands on, or None."""
    if all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval")):
        return optimizer
    base = getattr(optimizer, "base", None)
    return None if base is None else with_modes(base)


class Lookahead:
    """Move slow weights a part of the way towards the fast ones every ``k`` steps.

    Unlike ``torch_optimizer.Lookahead``, whose slow weights start at the weights
    after its first step, they start at the first weights, as in the paper.

    Args:
        base: Makes the fast weights.
        k: Fast steps between two slow ones, >= 1.
        alpha: Part of the way that the slow weights go, in (0, 1].

    Raises:
        ValueError: ``k`` or ``alpha`` is out of range.

    Source: Zhang et al. 2019, algorithm 1, arXiv:1907.08610.
    """

    def __init__(self, base: Stepper, k: int = 5, alpha: float = 0.5) -> None:
        if k < 1:
            raise ValueError(f"k is {k}; expected at least 1")
        if not 0.0 < alpha <= 1.0:
            raise ValueError(f"alpha is {alpha}; expected a number in (0, 1]")
        self.base = base
        self.k = k
        self.alpha = alpha
        self._fast_steps = 0
        self._slow: list[Tensor] = []

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of the base."""
        return self.base.param_groups

    def step(self, closure: Closure | None = None) -> None:
        """Make one fast step and, every ``k``, a slow one.

        Args:
            closure: For a base that needs one.
        """
        parameters = parameters_of(self)
        if not self._slow:
            self._slow = [parameter.detach().clone() for parameter in parameters]
        self.base.step(closure)
        self._fast_steps += 1
        if self._fast_steps % self.k == 0:
            for slow, fast in zip(self._slow, parameters, strict=True):
                slow.lerp_(fast.data, self.alpha)
                fast.data.copy_(slow)

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state, the slow weights and the count of steps."""
        return {"base": self.base.state_dict(), "slow": self._slow, "fast_steps": self._fast_steps}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        restore(self.base, state_dict["base"])
        self._slow = list(state_dict["slow"])
        self._fast_steps = state_dict["fast_steps"]


class Sam:
    """Step from the gradient at the worst point nearby: sharpness-aware minimisation.

    Args:
        base: Makes the step.
        rho: Distance to that point, > 0, in units of the parameters.
        adaptive: Measure the distance relative to each weight (ASAM).

    Raises:
        ValueError: ``rho`` is not positive, or the base takes passes of its own.

    Source: Foret et al. 2021, algorithm 1, arXiv:2010.01412; Kwon et al. 2021, arXiv:2102.11600.
    """

    def __init__(self, base: Stepper, *, rho: float = 0.05, adaptive: bool = False) -> None:
        if not rho > 0.0:
            raise ValueError(f"rho is {rho}; expected a number above 0")
        if needs_closure(base):
            raise ValueError("sam cannot stand on an algorithm that asks for passes of its own")
        self.base = base
        self.rho = rho
        self.adaptive = adaptive

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of the base."""
        return self.base.param_groups

    def step(self, closure: Closure) -> None:
        """Climb, take the gradient there, come back, and step with it.

        Args:
            closure: Sets every ``grad`` to the gradient at the current parameters.
        """
        closure()
        moved = [parameter for parameter in parameters_of(self) if parameter.grad is not None]
        start = [parameter.detach().clone() for parameter in moved]
        directions = [self._direction(parameter) for parameter in moved]
        norms = [torch.linalg.vector_norm(self._scaled(p)) for p in moved]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
        for parameter, direction in zip(moved, directions, strict=True):
            parameter.data.add_(direction * (self.rho / (norm + 1e-12)))
        closure()
        for parameter, value in zip(moved, start, strict=True):
            parameter.data.copy_(value)
        self.base.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state; nothing else lasts from step to step."""
        return {"base": self.base.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        restore(self.base, state_dict["base"])

    def _scaled(self, parameter: Tensor) -> Tensor:
        gradient = _grad(parameter)
        return parameter.detach().abs() * gradient if self.adaptive else gradient

    def _direction(self, parameter: Tensor) -> Tensor:
        gradient = _grad(parameter)
        return parameter.detach().square() * gradient if self.adaptive else gradient


class MuonWithAdamW:
    """Muon for the weights that are matrices, AdamW for the rest.

    ``torch.optim.Muon`` takes matrices only. A convolution's weight
    (O, I, H, W) is handed to it as the matrix (O, I·H·W); biases, norms and other
    vectors go to AdamW. Both use one learning rate, since Muon's updates are
    scaled to the size of AdamW's.

    Args:
        params: Parameter groups with ``params``, and ``lr`` or ``weight_decay`` if they differ.
        lr: Learning rate of both.
        weight_decay: Decoupled decay of both.
        momentum: Of Muon.
        nesterov: Of Muon.
        ns_steps: Newton-Schulz iterations of Muon.
        betas: Of AdamW.
        eps: Of AdamW.

    Source: Jordan 2024, https://kellerjordan.github.io/posts/muon/; the scale from
        Liu et al. 2025, section 2.2, arXiv:2502.16982.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.defaults = {"lr": lr, "weight_decay": weight_decay}
        self._matrices: list[tuple[Tensor, nn.Parameter]] = []
        matrix_groups, other_groups = [], []
        for group in params:
            matrices = [p for p in group["params"] if p.dim() >= _MATRIX_DIMS]
            others = [p for p in group["params"] if p.dim() < _MATRIX_DIMS]
            settings = self.defaults | {key: group[key] for key in self.defaults if key in group}
            if matrices:
                views = [nn.Parameter(p.detach().flatten(1)) for p in matrices]
                self._matrices += zip(matrices, views, strict=True)
                matrix_groups.append({"params": views, **settings})
            if others:
                other_groups.append({"params": others, **settings})
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if matrix_groups:
            self._parts["muon"] = torch.optim.Muon(
                matrix_groups,
                momentum=momentum,
                nesterov=nesterov,
                ns_steps=ns_steps,
                adjust_lr_fn="match_rms_adamw",
            )
        if other_groups:
            self._parts["adamw"] = torch.optim.AdamW(other_groups, betas=betas, eps=eps, fused=True)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of both parts; those of Muon hold views of the parameters as matrices."""
        return [group for part in self._parts.values() for group in part.param_groups]

    def step(self, closure: None = None) -> None:  # noqa: ARG002 - called like every optimizer
        """Update the matrices with Muon and the rest with AdamW."""
        for parameter, view in self._matrices:
            view.data = parameter.detach().flatten(1)
            view.grad = None if parameter.grad is None else parameter.grad.flatten(1)
        for part in self._parts.values():
            part.step()
        for _, view in self._matrices:
            view.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both parts."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        for name, part in self._parts.items():
            restore(part, state_dict[name])


def _grad(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        raise ValueError("a parameter without gradient has no direction")
    return parameter.grad
