"""All suspects as a file that other programs can read."""

from __future__ import annotations

import csv
from pathlib import Path

from torch import Tensor

from .record import Rows

NAME = "suspects.csv"
FIELDS = (
    *("rank", "index", "label", "guess", "score"),
    *("mean_loss", "mean_margin", "forgotten", "learned", "seen"),
)


def write_listing(folder: Path, indices: Tensor, scores: Tensor, rows: Rows) -> None:
    """Write one line a suspect, the most suspicious first.

    Args:
        folder: Exists, and may be written to.
        indices: (M,) positions in the training data, in that order.
        scores: (M,).
        rows: What is known of them.
    """
    seen = rows["seen"]
    columns = (
        *(range(len(indices)), indices.tolist(), rows["label"].tolist(), rows["guess"].tolist()),
        *(scores.tolist(), (rows["loss"] / seen).tolist(), (rows["margin"] / seen).tolist()),
        *(rows["forgotten"].tolist(), rows["learned"].long().tolist(), seen.tolist()),
    )
    # Put in place whole: whoever reads it meanwhile has the one before.
    unfinished = folder / f"{NAME}.new"
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        writer.writerows(zip(*columns, strict=True))
    unfinished.replace(folder / NAME)
