"""Parameters that a run leaves as they are, and the batch norm that goes with them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .tensor_names import named_parameters, tied_names


def match_parameters(model: nn.Module, pattern: str) -> list[str]:
    """Return the parameters that a pattern names; of a tied one each of its names counts.

    Args:
        model: Whose.
        pattern: As of ``fnmatch``; large and small letters differ.
    """
    tied = tied_names(model)
    names = [*named_parameters(model), *tied]
    return list(dict.fromkeys(tied.get(name, name) for name in names if fnmatchcase(name, pattern)))


def freeze(model: nn.Module, names: Collection[str]) -> None:
    """Have parameters need no gradient, and batch norm that only has such ones keep its statistics.

    Such a module stays in evaluation mode: statistics that go on to move, below weights that no longer can
    follow, would undo what was learned. What has no weights, such as dropout, is left as it is.

    Args:
        model: In training mode.
        names: Of parameters, as ``named_parameters`` gives them.
    """
    frozen = {id(p) for name, p in named_parameters(model).items() if name in names}
    for parameter in model.parameters():
        if id(parameter) in frozen:
            parameter.requires_grad = False
    for norm in _norms_of(model, frozen) if frozen else ():
        norm.eval()


def _norms_of(model: nn.Module, frozen: Collection[int]) -> Iterator[nn.Module]:
    """Yield batch norm whose parameters are all frozen, or, without any, those of the module around it."""
    for module in model.modules():
        for norm in (module, *module.children()):
            owner = norm if any(True for _ in norm.parameters(recurse=False)) else module
            own = [id(parameter) for parameter in owner.parameters()]
            if isinstance(norm, _BatchNorm) and own and all(one in frozen for one in own):
                yield norm
