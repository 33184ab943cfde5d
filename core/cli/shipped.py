"""Where files lie that come with ringfence and are no code: the template of plugins, the pages on rules."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..hooks.errors import JobError


def shipped(package: str) -> Path:
    """Return the folder of ``package``, which is mapped into ringfence and holds nothing to import.

    Raises:
        JobError: It is not there.
    """
    found = importlib.util.find_spec(f"ringfence.{package}")
    if found is None or found.origin is None:
        raise JobError(f"ringfence.{package}, which comes with ringfence, is missing; install ringfence anew")
    return Path(found.origin).parent
