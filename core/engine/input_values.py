"""How many values inputs of whole numbers can take, which decides on the sizes of embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .data import Data

#: What embeddings take.
_INDICES = (torch.int32, torch.int64)


def input_values(data: Data) -> dict[str, tuple[int, ...]]:
    """Return the name of each input of whole numbers to how many values it can take.

    What the reader of the data knows counts; otherwise one more than the largest number of any part. An input
    without a name, which is alone, has the name ``""``; nested ones are left out.

    Args:
        data: All parts.
    """
    found = dict(data.values)
    for part in data.parts().values():
        for name, tensor in named_inputs(part.inputs).items():
            if name not in data.values and tensor.dtype in _INDICES and tensor.numel():
                found[name] = (max(found.get(name, (1,))[0], int(tensor.max()) + 1),)
    return found


def named_inputs(inputs: object) -> Mapping[str, Tensor]:
    """Return the inputs of a dict that are tensors; of one tensor itself, under the name ``""``."""
    if isinstance(inputs, Tensor):
        return {"": inputs}
    return (
        {name: item for name, item in inputs.items() if isinstance(item, Tensor)}
        if isinstance(inputs, dict)
        else {}
    )
