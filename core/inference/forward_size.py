"""How much memory a network takes for one sample, told without taking any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..engine.forward import forward
from ..hooks.errors import DataError
from ..job.user_code import is_import_path
from ..plugins.machine_memory import machine_bytes
from ..tracking.model_record import ModelRecord
from ..tracking.own_runs import Permission
from .network import build_network, zero_inputs

#: Channels that a convolution on the host works on at once.
_BLOCK = 16
_CONVOLUTIONS = frozenset(
    getattr(functional, f"conv{kind}{dims}d") for kind in ("", "_transpose") for dims in (1, 2, 3)
)


class _Largest(TorchFunctionMode):
    """Notes how many bytes the largest function takes and gives.

    Attention is one of them: its kernels never hold what each place says to each other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nbytes: int = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        sizes = {id(leaf): leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor)}
        if func in _CONVOLUTIONS:
            # Before and after it both are laid out anew, in blocks of channels.
            for image in (args[0], result):
                sizes[id(image)] += image.nbytes * -(-image.shape[1] // _BLOCK) * _BLOCK // image.shape[1]
        self.nbytes = max(self.nbytes, sum(sizes.values()))
        return result


def forward_bytes(permission: Permission, record: ModelRecord) -> int:
    """Return how many bytes the largest function of one sample takes and gives, the parameters with it.

    Args:
        permission: The run's folder, and what of it may be followed.
        record: Of its model.

    Returns:
        0 for a network of somebody's own: what is not on torch's device ``meta`` costs what it costs.

    Raises:
        DataError: No such sample can go through the model on this machine.
        CheckpointError, JobError: As ``build_network``.
    """
    choice, base = permission.model_code(record)
    if is_import_path(choice.name):
        return 0
    network = build_network(choice, record, base).eval()
    what = f"a sample of {' and '.join(' x '.join(map(str, form.shape)) for form in record.inputs)} numbers"
    largest = _Largest()
    try:
        with torch.no_grad(), largest:
            forward(network, zero_inputs(record, 1, torch.device("meta")))
    except RuntimeError as error:
        raise DataError(f"{what} cannot go through model '{choice.name}': {error}") from error
    if largest.nbytes > machine_bytes() // 2:
        raise DataError(
            f"{what} takes {largest.nbytes / 2**30:.1f} GiB in one layer of model '{choice.name}', which is "
            "more than half of this machine's memory"
        )
    return largest.nbytes
