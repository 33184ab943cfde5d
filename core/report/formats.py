"""Figures, times and names as people write them."""

from __future__ import annotations

import math

from ..plugins.machine_memory import MIB

_MINUTE, _HOUR = 60, 3600
_LETTERS = {"auroc": "AUROC", "f1": "F1", "iou": "IoU", "mae": "MAE", "mse": "MSE", "r2": "R²"}
#: Words in names of metrics that are shares, between 0 and 1.
_SHARES = ("accuracy", "auroc", "dice", "iou", "precision", "recall")


def words(name: str) -> str:
    """Return a name without underscores, and those that are letters as letters are written."""
    return _LETTERS.get(name, name.replace("_", " "))


def is_share(name: str) -> bool:
    """Tell whether a metric lies between 0 and 1, as an accuracy does."""
    return name.endswith("f1") or any(word in name for word in _SHARES)


def metric(name: str, value: float | None) -> str:
    """Return shares as per cent, other metrics as they are."""
    if value is not None and math.isfinite(value) and is_share(name) and 0 <= value <= 1:
        return f"{value:.2%}"
    return number(value)


def number(value: float | None) -> str:
    """Return four digits of a number."""
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:.4g}"


def mib(size: float) -> str:
    """Return bytes as MiB, or GiB where that is shorter."""
    return f"{size / MIB:.0f} MiB" if size < 10 * 1024 * MIB else f"{size / MIB / 1024:.1f} GiB"


def moment(iso: str) -> str:
    """Return ``2026-01-31T12:00:00+00:00`` as people write it."""
    return str(iso).replace("T", " ").replace("+00:00", " UTC")


def duration(seconds: float) -> str:
    """Return seconds, or minutes or hours of many."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _MINUTE)
    if seconds < _HOUR:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
