"""The command ``ringfence evaluate``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from ..hooks.errors import visible
from ..inference.evaluate_run import EvaluateRequest, evaluate_run
from .columns import table
from .predict_data import signals_as_ctrl_c


def evaluate_data(request: EvaluateRequest, *, as_json: bool) -> str:
    """Return the metrics of a run's model, as a table or as JSON.

    Raises:
        RingfenceError: As ``ringfence.evaluate``.
    """
    with signals_as_ctrl_c():
        measured = evaluate_run(request)
    if as_json:
        # JSON has no word for what is not finite.
        finite = {
            part: {name: value if math.isfinite(value) else None for name, value in metrics.items()}
            for part, metrics in measured.items()
        }
        return json.dumps(finite, indent=2)
    return visible("\n".join(_table(measured)))


def _table(measured: Mapping[str, Mapping[str, float]]) -> list[str]:
    names = list(next(iter(measured.values())))
    rows = [["", *names]]
    for part, metrics in measured.items():
        rows.append([part, *(_cell(metrics[name]) for name in names)])
    return table(rows)


def _cell(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
