"""Findings of a monitor in one step, under the names of the report."""

from __future__ import annotations

import re

from ringfence import Histogram, Report

from .summary import Summary

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._\-/]")
_LONGEST_NAME = 180


class Findings:
    """Collect scalars and histograms; a layer's are named ``<what>/<parameter>``."""

    def __init__(self) -> None:
        self._scalars: dict[str, float] = {}
        self._histograms: dict[str, Histogram] = {}

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

    def report(self) -> Report:
        """Return everything."""
        return Report(scalars=self._scalars, histograms=self._histograms)

    def _histogram(self, what: str, parameter: str, summary: Summary) -> None:
        if summary.histogram is not None:
            self._histograms[_name(what, parameter)] = summary.histogram


def _name(what: str, parameter: str) -> str:
    return f"{what}/{_NOT_IN_NAMES.sub('_', parameter)[-_LONGEST_NAME:]}"
