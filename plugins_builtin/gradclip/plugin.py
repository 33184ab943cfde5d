"""The clipping plugin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Gt, Le

from ringfence import Gradients, Parameters, StepInfo, passthrough

from .clip import Clip, adaptive, by_norm, by_value, check_patterns, total_norm


class GradClip:
    """Clip gradients; log how often.

    Logs ``norm`` (before clipping), ``clipped`` (0 or 1), ``clipped_fraction``
    (of the calls so far) and, with ``agc``, ``clipped_units`` (share of the units).

    Args:
        mode: ``norm`` scales all gradients together, ``value`` clamps each number,
            ``agc`` compares each unit's gradient with its weights.
        max_norm: For ``norm``: upper bound of the joint norm.
        norm_type: The p of the norm that ``norm`` bounds and that is logged; ``.inf`` for the largest entry.
        max_value: For ``value``: upper bound of each entry's size.
        clip_factor: For ``agc``: upper bound of a unit's gradient norm, as a share of its weight norm.
        eps: For ``agc``: a unit's weight norm counts as at least this, so that zero weights can grow.
        exclude: For ``agc``: patterns of parameter names to leave alone, such as the last layer's.
    """

    role = "gradient"
    forward = passthrough

    def __init__(
        self,
        *,
        mode: Literal["norm", "value", "agc"] = "norm",
        max_norm: Annotated[float, Gt(0)] = 1.0,
        norm_type: Annotated[float, Gt(0), Le(math.inf)] = 2.0,
        max_value: Annotated[float, Gt(0)] = 1.0,
        clip_factor: Annotated[float, Gt(0)] = 0.01,
        eps: Annotated[float, Gt(0)] = 1e-3,
        exclude: list[str] | None = None,
    ) -> None:
        self._mode = mode
        self._max_norm = max_norm
        self._norm_type = norm_type
        self._max_value = max_value
        self._clip_factor = clip_factor
        self._eps = eps
        self._exclude = tuple(exclude or ())
        self._calls = 0
        self._clipped = 0

    def backward(self, gradients: Gradients, parameters: Parameters, step: StepInfo) -> Gradients | None:
        """Return clipped gradients, or None if they are within the bound.

        Raises:
            ValueError: A gradient is not finite (the message names its parameter), or a
                pattern of ``exclude`` matches no parameter.
        """
        if self._calls == 0:
            check_patterns(self._exclude, parameters)
        norm = total_norm(gradients, self._norm_type)
        result = self._clip(gradients, parameters, norm)
        self._calls += 1
        self._clipped += result.gradients is not None
        step.log("norm", norm)
        step.log("clipped", float(result.gradients is not None))
        step.log("clipped_fraction", self._clipped / self._calls)
        if result.clipped_units is not None:
            step.log("clipped_units", result.clipped_units)
        return result.gradients

    def state_dict(self) -> dict[str, int]:
        """Return the counts."""
        return {"calls": self._calls, "clipped": self._clipped}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take the counts back."""
        self._calls = state["calls"]
        self._clipped = state["clipped"]

    def _clip(self, gradients: Gradients, parameters: Parameters, norm: float) -> Clip:
        match self._mode:
            case "norm":
                return by_norm(gradients, norm, self._max_norm)
            case "value":
                return by_value(gradients, self._max_value)
            case "agc":
                return adaptive(gradients, parameters, self._clip_factor, self._eps, self._exclude)
