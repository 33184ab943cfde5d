"""What may come of an attacker's bytes: a result that its hook allows, or an error of the plugin's."""

import math
import time
from pathlib import Path

import torch

from ringfence.hooks.errors import (
    PluginLoadError,
    PluginMemoryError,
    PluginProtocolError,
    PluginRaisedError,
)
from ringfence.hooks.types import AnotherPass, Batch, LossScale, LossTerm, Report

#: How much memory the host may take to look at one reply, beside what it had before: an outbox of 12 MiB,
#: its copy, and what is built of it.
MAX_GROWTH_BYTES = 64 * 2**20
#: Of the host's processor, for one reply.
MAX_CPU_S = 2.0
MAX_ERROR_CHARACTERS = 100_000

#: What each kind of a well-formed ``Fault`` is told as.
FAULTS = (PluginRaisedError, PluginMemoryError, PluginLoadError, PluginProtocolError)


class Bounds:
    """Measures executions.

    Attributes:
        executions: How many.
        growth_bytes: The most that one of them took.
        cpu_s: The longest of them.
        outcomes: How often each came.
    """

    def __init__(self):
        self.executions = 0
        self.growth_bytes = 0
        self.cpu_s = 0.0
        self.outcomes = {}

    def __call__(self, run):
        """Run once; fail if it takes more than the host may."""
        # Resets the peak of this process: proc(5).
        Path("/proc/self/clear_refs").write_bytes(b"5")
        before, began = peak_bytes(), time.thread_time()
        kind, result = run()
        cpu_s, growth = time.thread_time() - began, peak_bytes() - before
        self.executions += 1
        self.growth_bytes, self.cpu_s = max(self.growth_bytes, growth), max(self.cpu_s, cpu_s)
        self.outcomes[kind] = self.outcomes.get(kind, 0) + 1
        assert growth <= MAX_GROWTH_BYTES, f"{growth / 2**20:.0f} MiB for one reply"
        assert cpu_s <= MAX_CPU_S, f"{cpu_s:.1f} s for one reply"
        return kind, result

    def __str__(self):
        outcomes = ", ".join(f"{count} {kind}" for kind, count in sorted(self.outcomes.items()))
        return (
            f"{self.executions} executions: {outcomes}; "
            f"at most {self.growth_bytes / 2**20:.0f} MiB and {self.cpu_s:.2f} s each"
        )


def peak_bytes():
    """Return the most memory that this process had in RAM since the peak was last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def assert_contained(kind, result, given):
    """Fail unless ``result`` is one that a hook may return, or a plugin's error that is fit to be shown.

    Args:
        kind: What came of it, as ``Attacked.call`` says.
        result: The result or the error.
        given: The arguments of the call.
    """
    if kind != "accepted":
        assert isinstance(result, FAULTS), repr(result)
        text = str(result)
        assert len(text) <= MAX_ERROR_CHARACTERS
        assert all(c.isprintable() or c == "\n" for c in text)
        return
    for value in result if isinstance(result, list) else [result]:
        _assert_valid(value[1] if isinstance(value, tuple) else value, given)


def _assert_valid(value, given):
    match value:
        case None:
            return
        case Batch():
            batch = given["batch"]
            _assert_like(value.inputs, batch.inputs)
            assert value.indices is batch.indices
            if value.targets.is_floating_point():
                assert value.targets.shape == (len(batch), batch.num_classes)
                assert bool(torch.isfinite(value.targets).all())
            else:
                _assert_like(value.targets, batch.targets)
                assert 0 <= int(value.targets.min()) <= int(value.targets.max()) < batch.num_classes
        case float():
            assert math.isfinite(value)
        case LossScale(factor):
            assert math.isfinite(factor)
        case LossTerm(number, gradient):
            assert math.isfinite(number)
            _assert_like(gradient, given["outputs"])
        case Report():
            _assert_report(value)
        case AnotherPass(parameters):
            _assert_valid(parameters, given)
        case _:
            assert value.keys() == given["parameters"].keys()
            for name, tensor in value.items():
                _assert_like(tensor, given["parameters"][name])


def _assert_like(tensor, example):
    assert (tensor.shape, tensor.dtype) == (example.shape, example.dtype)
    assert bool(torch.isfinite(tensor).all())


def _assert_report(report):
    names = [*report.scalars, *report.histograms, *report.images]
    assert all(0 < len(name) <= 200 and name.isascii() and name.isprintable() for name in names)
    assert all(isinstance(value, float) for value in report.scalars.values())
    for histogram in report.histograms.values():
        assert len(histogram.edges) == len(histogram.counts) + 1 <= 513
        assert all(map(math.isfinite, (*histogram.counts, *histogram.edges)))
    for image in report.images.values():
        assert image.dtype == torch.uint8
        assert 1 <= min(image.shape[:2]) <= max(image.shape[:2]) <= 1024
