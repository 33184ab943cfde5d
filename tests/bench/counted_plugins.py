"""The plugins of ``counted``."""

from __future__ import annotations

import torch
from torch import Tensor

from ringfence import Gradients, Parameters, StepInfo, passthrough

_LR = 0.1


def descend(parameters: list[Tensor], gradients: list[Tensor]) -> None:
    """Take a step of plain gradient descent."""
    torch._foreach_add_(parameters, gradients, alpha=-_LR)


class Descent:
    """An optimizer that works in place, as a trusted one may."""

    role = "optimizer"
    draws = False
    one_pass = True
    forward = passthrough

    def backward(self, parameters: Parameters, gradients: Gradients, step: StepInfo) -> Parameters:
        """Take a step."""
        descend(list(parameters.values()), list(gradients.values()))
        return parameters


class Quiet:
    """A plugin that does nothing with what it is given."""

    role = "gradient"
    forward = passthrough

    def backward(self, gradients: Gradients, step: StepInfo) -> None:
        """Pass."""
