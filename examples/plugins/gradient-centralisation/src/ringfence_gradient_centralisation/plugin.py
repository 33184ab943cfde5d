"""The plugin."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import Tensor

from ringfence import Gradients, Parameters, StepInfo, passthrough

#: What one output of a convolution is made by has channels and places; of a linear layer, inputs only.
_CONVOLUTION_DIMS = 3
_WEIGHT_DIMS = 2


class GradientCentralisation:
    """Take its mean away from the gradient of each weight.

    Source: Yong et al. 2020, equation 1, arXiv:2004.01461.

    Args:
        layers: Patterns of the parameter names to centralise; all weights if left out.
        conv_only: Spare the weights of linear layers, which are matrices.
    """

    role = "gradient"
    forward = passthrough

    def __init__(self, *, layers: list[str] | None = None, conv_only: bool = False) -> None:
        self._layers = layers
        self._least_dims = _CONVOLUTION_DIMS if conv_only else _WEIGHT_DIMS

    def backward(self, gradients: Gradients, parameters: Parameters, step: StepInfo) -> Gradients:
        """Return centralised gradients, in a copy: what a hook receives is read-only.

        Raises:
            ValueError: A pattern of ``layers`` matches no parameter.
        """
        self._check(parameters)
        centralised = gradients.clone()
        means = [
            _centralise(gradient) for name, gradient in centralised.items() if self._is_meant(name, gradient)
        ]
        total = math.hypot(*(gradient.norm().item() for gradient in gradients.values()))
        # The two parts are at right angles, so that the squares of their norms add up.
        step.log("removed", math.hypot(*means) / total if total else 0.0)
        step.log("layers", len(means))
        return centralised

    def _is_meant(self, name: str, gradient: Tensor) -> bool:
        return gradient.dim() >= self._least_dims and (
            self._layers is None or any(fnmatchcase(name, pattern) for pattern in self._layers)
        )

    def _check(self, names: Iterable[str]) -> None:
        known = list(names)
        for pattern in self._layers or ():
            if not any(fnmatchcase(name, pattern) for name in known):
                raise ValueError(
                    f"layers has '{pattern}', which matches no parameter; there are {', '.join(known)}"
                )


def _centralise(gradient: Tensor) -> float:
    """Take away, in place, the mean of what makes each output; return the norm of what was taken.

    Args:
        gradient: (O, …), of at least two dimensions.
    """
    if not gradient.numel():
        return 0.0
    mean = gradient.mean(dim=tuple(range(1, gradient.dim())), keepdim=True)
    gradient.sub_(mean)
    return float(mean.norm()) * math.sqrt(gradient[0].numel())
