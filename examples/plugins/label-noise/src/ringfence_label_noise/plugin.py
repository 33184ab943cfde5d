"""The plugin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from ringfence import Batch, Histogram, Report, StepInfo, passthrough

from .listing import write_listing
from .record import SCORES, Observed, Record, observe
from .sheet import Suspect, sheet, thumbnail

BINS = 64
#: Pictures that are kept for each that is shown: ranks change, and a sample is seen once an epoch only.
SPARE = 4
#: (B, C, H, W); other inputs have no pictures.
IMAGE_BATCH_DIMS = 4


class LabelNoise:
    """Find samples whose labels are probably wrong, by how training goes on them.

    Args:
        rank_by: What makes a sample suspicious: a low ``margin``, a high ``loss``, or ``forgetting``.
        share: Share of the samples to suspect, the most suspicious ones.
        report_every: Steps between reports; the last step brings one too.
        pictures: Most suspects on the sheet; 0 for no sheet.
        folder: Folder that gets ``suspects.csv``, with all suspects; the job has to grant it.
    """

    role = "monitor"
    needs = {"write": {"{folder}": "writes the list of suspects there"}}  # noqa: RUF012 - read as text
    # All that it needs comes on the way to the loss.
    backward = passthrough

    def __init__(
        self,
        *,
        rank_by: Literal["margin", "loss", "forgetting"] = "margin",
        share: Annotated[float, Gt(0), Le(0.5)] = 0.05,
        report_every: Annotated[int, Ge(1)] = 100,
        pictures: Annotated[int, Ge(0), Le(100)] = 36,
        folder: str | None = None,
    ) -> None:
        self._score = SCORES[rank_by]
        self._share = share
        self._report_every = report_every
        self._shown = pictures
        self._folder = None if folder is None else Path(folder)
        self._record = Record()
        self._pictures: dict[int, Tensor] = {}

    def forward(self, batch: Batch, outputs: Tensor, step: StepInfo) -> Report | None:
        """Look at each sample of the batch; report from time to time.

        Raises:
            ValueError: There are no classes to be mistaken for each other.
        """
        observed = observe(batch, outputs)
        self._record.add(observed)
        self._keep_pictures(batch, observed)
        done = step.global_step + 1
        return self._report() if done % self._report_every == 0 or done == step.steps_total else None

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that is resumed needs to go on as if it had never stopped."""
        return {"columns": self._record.columns, "pictures": self._pictures}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._record.columns = dict(state["columns"])
        self._pictures = dict(state["pictures"])

    def _keep_pictures(self, batch: Batch, observed: Observed) -> None:
        """Keep those that stand a chance to be shown; a score changes only when its sample is in a batch."""
        if not self._shown or batch.inputs.dim() != IMAGE_BATCH_DIMS:
            return
        places = dict(zip(observed.indices.tolist(), observed.places.tolist(), strict=True))
        candidates = torch.tensor(sorted({*self._pictures, *places}), dtype=torch.int64)
        best = self._ranked(candidates)[0][: SPARE * self._shown].tolist()
        self._pictures = {
            index: thumbnail(batch.inputs[places[index]]) if index in places else self._pictures[index]
            for index in best
        }

    def _ranked(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return indices and their scores, the most suspicious first; of equal ones the first in the data."""
        scores = self._score(self._record.rows(indices))
        order = scores.argsort(descending=True, stable=True)
        return indices[order], scores[order]

    def _report(self) -> Report | None:
        indices, scores = self._ranked(self._record.seen())
        if not len(indices):
            return None
        count = math.ceil(self._share * len(indices))
        suspects = indices[:count]
        rows = self._record.rows(suspects)
        if self._folder is not None:
            write_listing(self._folder, suspects, scores[:count], rows)
        scalars = {
            "seen": len(indices),
            "suspects": count,
            "threshold": scores[count - 1].item(),
            "disagree": (rows["guess"] != rows["label"]).double().mean().item(),
        }
        return Report(
            scalars=scalars, histograms={"scores": _histogram(scores)}, images=self._images(suspects)
        )

    def _images(self, suspects: Tensor) -> dict[str, Tensor]:
        shown = [index for index in suspects.tolist() if index in self._pictures][: self._shown]
        columns = self._record.columns
        found = [
            Suspect(index, int(columns["label"][index]), int(columns["guess"][index]), self._pictures[index])
            for index in shown
        ]
        return {"suspects": sheet(found)} if found else {}


def _histogram(scores: Tensor) -> Histogram:
    """Count scores, which are in falling order and finite."""
    high, low = scores[0].item(), scores[-1].item()
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = torch.histc(scores, bins=BINS, min=low, max=high)
    edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
    return Histogram(counts=counts.tolist(), edges=edges.tolist())
