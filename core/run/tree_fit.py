"""What plugins have to know of data and outputs that are not one tensor each, and whether they do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from ..engine.data import Dataset
from ..engine.setup import Setup
from ..hooks.errors import JobError
from ..plugins.interface import Plugin
from ..tensors.tree_form import describe_tree

#: (N, H, W).
_MASK_DIMS = 3


def target_kind(train: Dataset) -> str | None:
    """Return ``masks`` for a class at each pixel, ``boxes`` for boxes, None for anything else."""
    targets = train.targets
    if isinstance(targets, Tensor):
        of_positions = train.num_classes is not None and targets.dim() == _MASK_DIMS
        return "masks" if of_positions and not targets.is_floating_point() else None
    return "boxes" if isinstance(targets, dict) and "boxes" in targets else None


def check_tree_fit(plugins: Iterable[Plugin], setup: Setup) -> None:
    """Check that each plugin which is given inputs, targets or outputs knows what these are.

    Raises:
        JobError: One knows single tensors only; all such are named.
    """
    train = setup.data.train
    trees = {"inputs": train.inputs, "targets": train.targets}
    told = [
        f"{name} that are {describe_tree(tree)}"
        for name, tree in trees.items()
        if not isinstance(tree, Tensor)
    ]
    faults = [fault for plugin in plugins if not plugin.takes_trees for fault in _faults(plugin, told, setup)]
    if faults:
        raise JobError("\n".join(faults))


def _faults(plugin: Plugin, told: list[str], setup: Setup) -> Iterator[str]:
    taken = {argument for arguments in plugin.accepts.values() for argument in arguments}
    if "batch" in taken and told:
        yield _fault(plugin, f"batches of one tensor, and the data have {' and '.join(told)}")
    if "outputs" in taken and setup.tried.outputs:
        yield _fault(plugin, f"outputs that are one tensor, and the model returned {setup.tried.outputs}")


def _fault(plugin: Plugin, what: str) -> str:
    name = plugin.spec.name
    return (
        f"plugin '{name}' knows {what}. Leave it out; or, if it can be given "
        "such, have its class say takes_trees = True"
    )
