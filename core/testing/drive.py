"""Drive a plugin through a few steps, and note what it does, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..hooks.role import METHODS
from ..hooks.types import AnotherPass, Batch, Histogram, LossScale, LossTerm, Report, StepInfo
from ..tensors import pytree
from . import samples
from .plugin_host import Called, StartedPlugin

#: Further passes over a batch after which an optimizer is not asked again; a run allows 100.
MAX_PASSES = 100


def drive(
    plugin: StartedPlugin,
    steps: Iterable[int],
    *,
    size: int = 8,
    dtype: torch.dtype = torch.float32,
    kind: str = "image",
) -> list[bytes]:
    """Call each method that is no pass-through, in firing order, and return a digest of every call.

    Args:
        plugin: The plugin.
        steps: Numbers of the steps; what a step brings depends on its number alone.
        size: Samples of a batch.
        dtype: Of inputs, outputs, parameters and gradients.
        kind: Of data, as ``samples.batch`` has it.

    Raises:
        PluginError: It failed, or what it returned does not fit.
    """
    digests = []
    for number in steps:
        given = samples.arguments(size, seed=number, dtype=dtype, kind=kind)
        for method in (name for name in METHODS if name in plugin.accepts):
            digests += _call(plugin, method, given, StepInfo(number, steps_total=MAX_PASSES))
    return digests


def digest(called: Called) -> bytes:
    """Return bytes that are equal for equal calls, and for no others."""
    return pytree.encode({"result": _plain(called.result), "logged": dict(called.logged)}).to_bytes()


def _call(plugin: StartedPlugin, method: str, given: Mapping[str, Any], step: StepInfo) -> list[bytes]:
    """Call once, and again at each point at which an optimizer asks for the gradients."""
    digests = []
    for pass_index in range(MAX_PASSES + 1):
        at = StepInfo(step.global_step, steps_total=step.steps_total, pass_index=pass_index)
        called = plugin.call(method, step=at, **given)
        digests.append(digest(called))
        if not isinstance(called.result, AnotherPass):
            break
        # The slope of a bowl around zero, which is where such optimizers come to rest.
        there = dict(called.result.parameters)
        slope = {name: there[name] for name in given["gradients"]}
        given = {**given, "parameters": there, "gradients": slope}
    return digests


def _numbers(histogram: Histogram) -> dict[str, list[float]]:
    # Whole counts come out of a sandbox with a point.
    return {"counts": [*map(float, histogram.counts)], "edges": [*map(float, histogram.edges)]}


def _plain(result: object) -> Any:
    match result:
        case Batch(inputs=inputs, targets=targets):
            return {"inputs": inputs, "targets": targets}
        case LossTerm(value=value, gradient=gradient):
            return {"value": value, "gradient": gradient}
        case LossScale(factor=factor):
            return {"factor": factor}
        case AnotherPass(parameters=parameters):
            return {"another": dict(parameters)}
        case Report():
            return {
                "scalars": dict(result.scalars),
                "histograms": {name: _numbers(found) for name, found in result.histograms.items()},
                "images": dict(result.images),
            }
        case Mapping():
            return dict(result)
    return result
