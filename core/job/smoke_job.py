"""A job of seconds for one plugin, with which the kit for authors and the check try it out."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

#: Small, and yet with an epoch that ends, and a last batch that is not full. A snapshot after each step
#: waits for monitors, so that none is ever too busy and each run reports the same.
SMALL: Mapping[str, Any] = MappingProxyType(
    {
        "model": {"name": "mlp", "hidden": [16]},
        "data": {"name": "mnist10k", "limit": 40},
        "steps": 5,
        "snapshot_every": 1,
        "batch_size": 16,
        "threads": 1,
        "device": "cpu",
    }
)
#: ``roles.optimizer.OPTIMIZER.name``, whose import would bring torch along.
_OPTIMIZER_ROLE = "optimizer"
_OPTIMIZER: Mapping[str, Any] = MappingProxyType({"optim": {"algorithm": "sgd", "lr": 0.05}})


def plugins_of(
    name: str,
    role: str | None,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    optimizer: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return the ``plugins`` of a small job: one plugin, and an optimizer where it is none.

    Args:
        name: The plugin.
        role: Its role, None if its text does not tell.
        options: Its options, as a job has them.
        settings: What stands beside its name.
        optimizer: What stands beside that of the optimizer.
    """
    plugins = [{name: dict(options), **settings}]
    return plugins if role == _OPTIMIZER_ROLE else [*plugins, {**_OPTIMIZER, **optimizer}]
