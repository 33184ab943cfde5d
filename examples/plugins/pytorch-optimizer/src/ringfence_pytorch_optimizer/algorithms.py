"""From the name in the job to a class of pytorch_optimizer, with options that it takes."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pytorch_optimizer
import torch
from torch import nn
from torch.optim import Optimizer

_MATRIX_DIMS = 2
_LISTED = 12
_BESIDE = ("lr", "weight_decay")

_GRAPH = "it needs the autograd graph of the gradients, and no graph crosses a process"
_MODEL = "it needs the model itself, and gets parameters and gradients only"
_MODES = (
    "other weights hold when the model is evaluated; use optim with its import path, which calls its modes"
)
_OBJECTS = "it keeps objects of its own where only tensors and numbers can be saved"
_PROCESSES = "it is for several processes that train together"
#: Name to the reason why it cannot work; ``tests/test_algorithms.py`` tries them all.
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "adahessian": _GRAPH,
        "adalomo": _MODEL,
        "adammini": _MODEL,
        "bsam": "it wants the loss at a second point of each step, which is not offered here; optim has sam",
        "conda": _OBJECTS,
        "demo": _PROCESSES,
        "distributedmuon": f"{_PROCESSES}; use muon",
        "lbfgs": "it wants the loss at further points of a step, which is not offered here; optim has lbfgs",
        "lomo": _MODEL,
        "magma": "it wraps another optimizer, and knows the parameters by where they lie in memory",
        "muonclip": "it clips by the logits of attention, which no optimizer is given here; use muon",
        "scalableshampoo": f"{_OBJECTS}; use soap",
        "schedulefreeadamw": _MODES,
        "schedulefreeradam": _MODES,
        "schedulefreesgd": _MODES,
        "sophiah": _GRAPH,
        "spectralsphere": "it takes matrices only, and no biases",
        "splus": _MODES,
    }
)

#: Those that want to be told which parameters are matrices to be orthogonalised.
MUON_LIKE = frozenset({"adago", "adamuon", "muon", "normuon"})


@dataclass(frozen=True, slots=True)
class Algorithm:
    """An optimizer that is ready to be built.

    Attributes:
        name: As the job spells it, in small letters.
        arguments: What the class is given beside the parameters.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Build it over ``parameters``.

        Raises:
            ValueError: The class refuses the parameters or an argument.
        """
        given = list(parameters)
        groups = _muon_groups(given) if self.name in MUON_LIKE else given
        try:
            optimizer = pytorch_optimizer.load_optimizer(self.name)(groups, **self.arguments)
        # What its classes raise of arguments and parameters that they do not take.
        except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"algorithm '{self.name}': {error}") from error
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"algorithm '{self.name}' is a {type(optimizer).__name__}, not an optimizer")
        return optimizer


def find(name: str, lr: float | None, weight_decay: float | None, options: Mapping[str, Any]) -> Algorithm:
    """Find the class that ``name`` means, and try its arguments on one matrix.

    Args:
        name: As ``pytorch_optimizer.get_supported_optimizers()`` lists it; capitals make no difference.
        lr: Learning rate; None for the class's own default.
        weight_decay: Weight decay; None for the class's own default.
        options: Other arguments of the class.

    Raises:
        ValueError: There is no such optimizer, it cannot work, or an argument does not fit.
    """
    key = name.lower()
    if key in REFUSED:
        raise ValueError(f"algorithm '{name}' cannot be used: {REFUSED[key]}")
    known = usable()
    if key not in known:
        raise ValueError(f"pytorch_optimizer has no algorithm '{name}'; {_nearest(key, known)}")
    given = {"lr": lr, "weight_decay": weight_decay}
    arguments = {beside: value for beside, value in given.items() if value is not None}
    algorithm = Algorithm(key, _checked(key, arguments, options))
    algorithm.build([nn.Parameter(torch.zeros(2, 2))])
    return algorithm


def usable() -> list[str]:
    """Return the names of all algorithms that are not refused."""
    return [name for name in pytorch_optimizer.get_supported_optimizers() if name not in REFUSED]


def _checked(name: str, beside: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments; the classes themselves would pass over those that they do not have."""
    # The first one takes the parameters.
    taken = list(inspect.signature(pytorch_optimizer.load_optimizer(name)).parameters.values())[1:]
    defaults = {each.name: each.default for each in taken if each.kind is not each.VAR_KEYWORD}
    for key in beside:
        if key not in defaults:
            raise ValueError(f"algorithm '{name}' has no {key}; leave it out")
    for key in options:
        if key in _BESIDE:
            raise ValueError(f"{key} belongs beside algorithm, not in options")
        if key not in defaults:
            own = [each for each in defaults if each not in _BESIDE]
            raise ValueError(f"algorithm '{name}' has no option '{key}'; {_nearest(key, own)}")
        if (type(defaults[key]), type(options[key])) == (bool, str):
            raise ValueError(f"algorithm '{name}': {key} is the text '{options[key]}'; write true or false")
    # A job has lists only, where a class may want a tuple, as for betas.
    return {**beside, **{key: _like(defaults[key], value) for key, value in options.items()}}


def _like(default: object, value: object) -> object:
    return tuple(value) if isinstance(default, tuple) and isinstance(value, list) else value


def _nearest(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=3)
    if near:
        return f"did you mean {' or '.join(repr(each) for each in near)}?"
    return f"known: {', '.join(names[:_LISTED])}{', …' if len(names) > _LISTED else ''}"


def _muon_groups(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    sides: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in parameters:
        sides[parameter.dim() >= _MATRIX_DIMS].append(parameter)
    return [{"params": side, "use_muon": is_matrix} for is_matrix, side in sides.items() if side]
