"""What an evaluation measures: the losses and metrics of a run, over batch after batch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..tensors.precision import map_within, to_double
from .data import Dataset
from .loss import Loss
from .metrics import LOSS, TargetForm
from .objective import Objective


class Measurement:
    """Losses and metrics over the batches so far.

    Args:
        objective: Losses and metrics.
        dataset: What is measured on.
        device: Where the outputs are.
    """

    def __init__(self, objective: Objective, dataset: Dataset, device: torch.device) -> None:
        self._objective, self._device = objective, device
        self._form = TargetForm.of(dataset)
        self._metrics = {name: m for name, m in objective.metrics.items() if m.build is not None}
        self._states: dict[str, Any] = {}
        self._judged = dict.fromkeys(self._metrics, torch.ones((), dtype=torch.bool, device=device))
        self._terms = objective.loss.terms
        self._sums = [torch.zeros((), dtype=torch.float64, device=device) for _ in self._terms]
        self._weights = [0.0] * len(self._terms)

    def add(self, outputs: Any, targets: Any, samples: int) -> None:
        """Take a batch.

        Args:
            outputs: What the model returned.
            targets: Where the outputs are.
            samples: Size of the batch.
        """
        for place, term in enumerate(self._terms):
            part, wanted = term.of(outputs, targets)
            weight = samples if term.loss.is_by_sample(wanted) else term.loss.weight(wanted)
            # The mean over a batch of which nothing counts is no number.
            if weight:
                self._weights[place] += weight
                self._sums[place] = self._sums[place] + exact_loss(term.loss, part, wanted) * weight
        for name, metric in self._metrics.items():
            given, wanted = self._objective.judged_by(metric, outputs, targets)
            if name not in self._states:
                self._states[name] = _on(metric.made_for(self._form, given, wanted), self._device)
            can_judge = metric.can_judge(given)
            self._judged[name] = self._judged[name] & can_judge.to(self._device)
            metric.update(self._states[name], given, wanted)

    def values(self) -> dict[str, float]:
        """Return ``"loss"``, each of several losses, and the metrics by name.

        NaN is a metric of outputs that are not finite, and a loss of samples of which none counts.
        """
        means = [
            total.item() / weight if weight else math.nan
            for total, weight in zip(self._sums, self._weights, strict=True)
        ]
        found = {LOSS: sum(term.factor * mean for term, mean in zip(self._terms, means, strict=True))}
        if len(self._terms) > 1:
            found |= {f"{LOSS}_{term.name}": mean for term, mean in zip(self._terms, means, strict=True)}
        for name, state in self._states.items():
            is_judged = bool(self._judged[name])
            found[name] = self._metrics[name].value(state) if is_judged else math.nan
        return found


def exact_loss(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    """Return the loss in float64: a small one is the difference of large numbers."""
    return loss(map_within(to_double, outputs), map_within(to_double, targets))


def _on(state: Any, device: torch.device) -> Any:
    """Return a metric that counts on the device, if it is one that can be moved."""
    return state.to(device) if hasattr(state, "to") else state
