"""Findings of a monitor in one step, under the names of the report."""

from __future__ import annotations

import re

from torch import Tensor

from ringfence import Histogram, Report

from .summary import Summary

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._\-/]")
_LONGEST_NAME = 180


class Findings:
    """Collect scalars and histograms; a layer's are named ``<what>/<parameter>``, an output's alike."""

    def __init__(self) -> None:
        self._scalars: dict[str, float] = {}
        self._histograms: dict[str, Histogram] = {}
        self._images: dict[str, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self._scalars or self._histograms or self._images)

    def overall(self, what: str, value: float) -> None:
        """Take a number that concerns the whole model."""
        self._scalars[what] = value

    def layer(self, what: str, parameter: str, value: float) -> None:
        """Take a number that concerns one parameter."""
        self._scalars[_name(what, parameter)] = value

    def weight(self, parameter: str, summary: Summary) -> None:
        """Take the distribution of a parameter."""
        self.layer("weight_mean", parameter, summary.mean)
        self.layer("weight_std", parameter, summary.std)
        self.layer("weight_min", parameter, summary.low)
        self.layer("weight_max", parameter, summary.high)
        self.layer("weight_zeros", parameter, summary.zeros)
        self.layer("weight_nonfinite", parameter, summary.nonfinite)
        self._histogram("weights", parameter, summary)

    def gradient(self, parameter: str, summary: Summary) -> None:
        """Take the distribution of a gradient."""
        self.layer("grad_norm", parameter, summary.norm)
        self.layer("grad_zeros", parameter, summary.zeros)
        self.layer("grad_nonfinite", parameter, summary.nonfinite)
        self._histogram("gradients", parameter, summary)

    def output(self, output: str, summary: Summary) -> None:
        """Take what an output looks like."""
        self.layer("output_mean", output, summary.mean)
        self.layer("output_std", output, summary.std)
        self.layer("output_min", output, summary.low)
        self.layer("output_max", output, summary.high)
        self.layer("output_nonfinite", output, summary.nonfinite)

    def picture(self, name: str, picture: Tensor) -> None:
        """Take a picture."""
        self._images[name] = picture

    def report(self) -> Report:
        """Return everything."""
        return Report(scalars=self._scalars, histograms=self._histograms, images=self._images)

    def _histogram(self, what: str, parameter: str, summary: Summary) -> None:
        if summary.histogram is not None:
            self._histograms[_name(what, parameter)] = summary.histogram


def _name(what: str, parameter: str) -> str:
    return f"{what}/{_NOT_IN_NAMES.sub('_', parameter)[-_LONGEST_NAME:]}"
