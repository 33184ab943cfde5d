"""Schedule-free optimizers: the average of the weights takes the place of a falling learning rate.

    y = (1 - beta) * z + beta * x                   # train(): where the gradients are taken
    z = z - lr * (what the base makes of them)      # step()
    x = (1 - c) * x + c * z                         # c: the share of this step's weight in all
    x                                               # eval(): what is evaluated and saved

Between steps the parameters are ``x``, and the state holds ``z``: so nothing is worked out backwards, and how
often the mode changes makes no difference to a bit. Warm-up is the schedule's.

Source: Defazio et al. 2024, algorithm 1, arXiv:2405.15682.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class ScheduleFree(torch.optim.Optimizer):
    """The part that all of them share.

    Args:
        params: Parameters, or groups of them.
        defaults: Settings of a group; ``lr``, ``weight_decay``, ``r`` and ``weight_lr_power`` among them.

    Raises:
        ValueError: One is out of range.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        for key in ("lr", "weight_decay", "eps", "r", "weight_lr_power"):
            if not defaults.get(key, 0.0) >= 0.0:
                raise ValueError(f"{key} is {defaults[key]}; expected at least 0")
        super().__init__(params, defaults)
        for group in self.param_groups:
            # Settings that it changes by itself, and a job has no business with.
            group.update(steps=0, lr_max=0.0, weight_sum=0.0)
        self._averages: dict[Tensor, Tensor] | None = None

    @torch.no_grad()
    def train(self) -> None:
        """Move the parameters to where the gradients are to be taken."""
        if self._averages is not None:
            return
        self._averages = {}
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter in self.state]
            self._averages |= {parameter: parameter.detach().clone() for parameter in moved}
            if moved:
                torch._foreach_lerp_(moved, self._of(moved, "z"), 1.0 - self._beta(group))

    @torch.no_grad()
    def eval(self) -> None:
        """Move them back to the averages."""
        for parameter, average in (self._averages or {}).items():
            parameter.copy_(average)
        self._averages = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002 - as every optimizer
        """Make one step from the gradients; the parameters are the new averages after ``eval``.

        Raises:
            RuntimeError: The gradients were taken elsewhere.
        """
        if self._averages is None:
            raise RuntimeError("train() comes before the gradients are taken, and was not called")
        for group in self.param_groups:
            active = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in active:
                if parameter not in self.state:
                    self.state[parameter] = {"z": parameter.detach().clone(), **self._begin(parameter)}
                    self._averages[parameter] = parameter.detach().clone()
            share = self._count(group)
            if active:
                z = self._of(active, "z")
                self._move(group, active, z, [p.grad for p in active if p.grad is not None])
                torch._foreach_lerp_([self._averages[p] for p in active], z, share)

    def _count(self, group: dict[str, Any]) -> float:
        """Count a step of ``group``; return its share in the average."""
        group["steps"] += 1
        group["lr_max"] = max(group["lr"], group["lr_max"])
        weight: float = group["steps"] ** group["r"] * group["lr_max"] ** group["weight_lr_power"]
        group["weight_sum"] += weight
        return weight / group["weight_sum"] if group["weight_sum"] else 0.0

    def _of(self, parameters: Iterable[Tensor], key: str) -> list[Tensor]:
        return [self.state[parameter][key] for parameter in parameters]

    def _beta(self, group: dict[str, Any]) -> float:
        raise NotImplementedError

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:  # noqa: ARG002 - the base's signature
        """Return what the base keeps of a parameter besides."""
        return {}

    def _move(self, group: dict[str, Any], y: list[Tensor], z: list[Tensor], gradients: list[Tensor]) -> None:
        """Make the base's step from the gradients at ``y``, in ``z``."""
        raise NotImplementedError


class ScheduleFreeSGD(ScheduleFree):
    """Schedule-free SGD.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate; as of plain SGD or larger.
        momentum: How near the average the gradients are taken, in (0, 1).
        weight_decay: Added to the gradients, times the weights where they are taken.
        r: Power of the step in its weight: more forgets the first steps sooner.
        weight_lr_power: Power of the highest learning rate so far in it; 0 weighs warm-up like the rest.

    Raises:
        ValueError: One is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
    ) -> None:
        if not 0.0 < momentum < 1.0:
            raise ValueError(f"momentum is {momentum}; expected a number between 0 and 1")
        own = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, own | {"r": r, "weight_lr_power": weight_lr_power})

    def _beta(self, group: dict[str, Any]) -> float:
        return float(group["momentum"])

    def _move(self, group: dict[str, Any], y: list[Tensor], z: list[Tensor], gradients: list[Tensor]) -> None:
        if group["weight_decay"]:
            torch._foreach_add_(z, y, alpha=-group["lr"] * group["weight_decay"])
        torch._foreach_add_(z, gradients, alpha=-group["lr"])


class ScheduleFreeAdamW(ScheduleFree):
    """Schedule-free AdamW.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate; one to ten times that of AdamW with a schedule.
        betas: How near the average the gradients are taken; the decay of the second moment.
        eps: Added to its root.
        weight_decay: Decoupled decay, of the weights where the gradients are taken.
        r: Power of the step in its weight: more forgets the first steps sooner.
        weight_lr_power: Power of the highest learning rate so far in it; 0 weighs warm-up like the rest.

    Raises:
        ValueError: One is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.0025,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
    ) -> None:
        if not all(0.0 < beta < 1.0 for beta in betas):
            raise ValueError(f"betas is {betas}; expected numbers between 0 and 1")
        own = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, own | {"r": r, "weight_lr_power": weight_lr_power})

    def _beta(self, group: dict[str, Any]) -> float:
        return float(group["betas"][0])

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:
        return {"exp_avg_sq": torch.zeros_like(parameter)}

    def _move(self, group: dict[str, Any], y: list[Tensor], z: list[Tensor], gradients: list[Tensor]) -> None:
        squares, decay = self._of(y, "exp_avg_sq"), group["betas"][1]
        torch._foreach_mul_(squares, decay)
        torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - decay)
        roots = torch._foreach_div(squares, 1.0 - decay ** group["steps"])  # noqa: SLF001 - as torch.optim does
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        if group["weight_decay"]:
            torch._foreach_add_(z, y, alpha=-group["lr"] * group["weight_decay"])
        torch._foreach_addcdiv_(z, gradients, roots, -group["lr"])
