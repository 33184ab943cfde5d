"""Kinds of parameters: what is near 1 in one is near 0 in another, so that they share no band of a chart."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_MATRIX = 2
_NORM = re.compile(r"(?:^|[._])(?:[a-z]*norm|bn|ln|gn)[0-9]*(?:[._]|$)", re.IGNORECASE)


def kind_of(shapes: Mapping[str, tuple[int, ...]]) -> Callable[[str], str]:
    """Return what tells the kind of a parameter from its name.

    Args:
        shapes: Parameter to its shape; of those that are missing the name alone tells.
    """

    def kind(name: str) -> str:
        if name.endswith("bias"):
            return "biases"
        dims = len(shapes[name]) if name in shapes else None
        if dims is None:
            return "norm scales" if _NORM.search(name) else "weights"
        if dims < _MATRIX:
            return "norm scales" if name.endswith("weight") else "other parameters"
        return "linear layers" if dims == _MATRIX else "convolutions"

    return kind
