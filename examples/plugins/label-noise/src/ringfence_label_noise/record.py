"""What is seen of each sample on the way, and how suspicious that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from ringfence import Batch

#: Column to its type; one row for each sample, by its index in the training data.
COLUMNS: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "seen": torch.int64,
        "loss": torch.float64,
        "margin": torch.float64,
        "forgotten": torch.int64,
        "correct": torch.bool,
        "learned": torch.bool,
        "label": torch.int64,
        "guess": torch.int64,
    }
)

_FEWEST_CLASSES = 2

#: Some rows of each column.
Rows = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Observed:
    """One look at the samples of a batch that have one label.

    Attributes:
        places: (M,) int64, where in the batch they are.
        indices: (M,) int64, their positions in the training data.
        losses: (M,) cross entropy of each.
        margins: (M,) output of the label, less the largest other one.
        labels: (M,) int64.
        guesses: (M,) int64, the class of the largest output.
    """

    places: Tensor
    indices: Tensor
    losses: Tensor
    margins: Tensor
    labels: Tensor
    guesses: Tensor


def observe(batch: Batch, outputs: Tensor) -> Observed:
    """Look at each sample of a batch; those with mixed labels, or outputs that are not finite, are left out.

    Args:
        batch: Of at least two classes.
        outputs: (B, K) logits.

    Raises:
        ValueError: There are no classes to be mistaken for each other.
    """
    classes = batch.num_classes
    if classes is None or classes < _FEWEST_CLASSES or outputs.shape != (len(batch), classes):
        raise ValueError(
            "label-noise needs one output for each of at least two classes, and was given outputs of shape "
            f"{tuple(outputs.shape)} for {classes} classes; leave it out of this job"
        )
    fit = torch.isfinite(outputs).all(dim=1)
    labels = batch.targets
    if labels.is_floating_point():
        most, labels = labels.max(dim=1)
        fit &= most == 1
    places = fit.nonzero().squeeze(1)
    logits, labels = outputs[places].double(), labels[places]
    own = labels.unsqueeze(1)
    others = logits.scatter(1, own, -torch.inf).amax(dim=1)
    return Observed(
        places=places,
        indices=batch.indices[places],
        losses=functional.cross_entropy(logits, labels, reduction="none"),
        margins=logits.gather(1, own).squeeze(1) - others,
        labels=labels,
        guesses=logits.argmax(dim=1),
    )


class Record:
    """All looks so far, summed up by sample."""

    def __init__(self) -> None:
        self.columns = {name: torch.zeros(0, dtype=dtype) for name, dtype in COLUMNS.items()}

    def add(self, observed: Observed) -> None:
        """Add one look at some samples."""
        if not len(observed.indices):
            return
        self._grow(int(observed.indices.max()) + 1)
        columns, at = self.columns, observed.indices
        correct = observed.guesses == observed.labels
        # Learned at its last turn, and wrong now.
        columns["forgotten"][at] += (columns["correct"][at] & ~correct).long()
        columns["seen"][at] += 1
        columns["loss"][at] += observed.losses
        columns["margin"][at] += observed.margins
        columns["correct"][at] = correct
        columns["learned"][at] |= correct
        columns["label"][at] = observed.labels
        columns["guess"][at] = observed.guesses

    def seen(self) -> Tensor:
        """Return the indices of the samples seen so far, in order."""
        return self.columns["seen"].nonzero().squeeze(1)

    def rows(self, indices: Tensor) -> Rows:
        """Return the rows of some samples, which have been seen."""
        return {name: column[indices] for name, column in self.columns.items()}

    def _grow(self, size: int) -> None:
        missing = size - len(self.columns["seen"])
        if missing > 0:
            self.columns = {
                name: torch.cat([column, column.new_zeros(missing)]) for name, column in self.columns.items()
            }


def mean_loss(rows: Rows) -> Tensor:
    """Return the mean cross entropy: what is labelled wrong is learned late, if at all.

    Source: Huang et al. 2019, "O2U-Net", section 3, doi:10.1109/ICCV.2019.00342.
    """
    return rows["loss"] / rows["seen"]


def low_margin(rows: Rows) -> Tensor:
    """Return the area under the margin, negated: the other samples of its true class pull against its label.

    Source: Pleiss et al. 2020, section 3, arXiv:2001.10528.
    """
    return -rows["margin"] / rows["seen"]


def forgetting(rows: Rows) -> Tensor:
    """Return how often a sample was forgotten; more than any, if it was never learned.

    Samples that were forgotten equally often are told apart by their mean loss, as a part of one event.

    Source: Toneva et al. 2019, algorithm 1, arXiv:1812.05159.
    """
    events = torch.where(rows["learned"], rows["forgotten"], rows["seen"])
    loss = mean_loss(rows)
    return events + loss / (1 + loss)


#: How a job spells a score to what computes it; larger is more suspicious.
SCORES: Mapping[str, Callable[[Rows], Tensor]] = MappingProxyType(
    {"margin": low_margin, "loss": mean_loss, "forgetting": forgetting}
)
