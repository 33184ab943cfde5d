"""From the name in the job to an optimizer: short names, import paths, options."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import nn

from .stepper import Stepper
from .wrappers import Lookahead, MuonWithAdamW, Sam, needs_closure, with_modes

_OURS = __name__.rpartition(".")[0]

#: Short name to the best implementation that works.
SHORT_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "a2gradexp": "torch_optimizer.A2GradExp",
        "a2gradinc": "torch_optimizer.A2GradInc",
        "a2graduni": "torch_optimizer.A2GradUni",
        "accsgd": "torch_optimizer.AccSGD",
        "adabelief": "torch_optimizer.AdaBelief",
        "adabound": "torch_optimizer.AdaBound",
        "adadelta": "torch.optim.Adadelta",
        "adafactor": "torch.optim.Adafactor",
        "adagrad": "torch.optim.Adagrad",
        "adam": "torch.optim.Adam",
        "adamax": "torch.optim.Adamax",
        "adamod": "torch_optimizer.AdaMod",
        "adamp": "torch_optimizer.AdamP",
        "adamw": "torch.optim.AdamW",
        "aggmo": "torch_optimizer.AggMo",
        "apollo": "torch_optimizer.Apollo",
        "asgd": "torch.optim.ASGD",
        "diffgrad": "torch_optimizer.DiffGrad",
        "lamb": "torch_optimizer.Lamb",
        "lars": "torch_optimizer.LARS",
        "lbfgs": "torch.optim.LBFGS",
        "madgrad": "torch_optimizer.MADGRAD",
        "muon": "torch.optim.Muon",
        "nadam": "torch.optim.NAdam",
        "novograd": "torch_optimizer.NovoGrad",
        "pid": "torch_optimizer.PID",
        "qhadam": "torch_optimizer.QHAdam",
        "qhm": "torch_optimizer.QHM",
        "radam": "torch.optim.RAdam",
        "ranger": "torch_optimizer.Ranger",
        "rangerqh": "torch_optimizer.RangerQH",
        "rangerva": "torch_optimizer.RangerVA",
        "rmsprop": "torch.optim.RMSprop",
        "rprop": "torch.optim.Rprop",
        "schedule_free_adamw": f"{_OURS}.schedule_free.ScheduleFreeAdamW",
        "schedule_free_sgd": f"{_OURS}.schedule_free.ScheduleFreeSGD",
        "sgd": "torch.optim.SGD",
        "sgdp": "torch_optimizer.SGDP",
        "sgdw": "torch_optimizer.SGDW",
        "shampoo": "torch_optimizer.Shampoo",
        "swats": "torch_optimizer.SWATS",
        "yogi": "torch_optimizer.Yogi",
    }
)

#: Short names that take ``base`` and ``base_options``: another algorithm, and its options.
WRAPPERS: Mapping[str, Callable[..., Stepper]] = MappingProxyType({"lookahead": Lookahead, "sam": Sam})

#: Short names for which a class of this package uses the class at the import path.
COMPOSITES: Mapping[str, Callable[..., Stepper]] = MappingProxyType({"muon": MuonWithAdamW})

#: With these, a short name adds ``fused=True``: on CPU up to ten times faster than the default.
FUSED = frozenset({"torch.optim.Adagrad", "torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD"})

#: What is said of an algorithm of second order.
NEEDS_GRAPH = (
    "needs the autograd graph of the gradients, which never crosses a process; it is not available yet"
)

#: Import path to the reason why it cannot be used.
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "torch.optim.SparseAdam": "takes sparse gradients only, and gradients here are dense; use adam",
        "torch_optimizer.Adahessian": NEEDS_GRAPH,
        "torch_optimizer.Lookahead": (
            "cannot save its state: state_dict raises AttributeError; use lookahead, with base: adamw"
        ),
    }
)

#: Import path to the most dimensions that it can take, and what to do with a parameter of more.
MAX_DIMS: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "torch_optimizer.Adafactor": (
            2,
            "it raises on weights of 3 or more dimensions; use adafactor, which is torch.optim.Adafactor",
        ),
    }
)

#: Import path to what to do when the class refuses the parameters.
HINTS: Mapping[str, str] = MappingProxyType(
    {
        "torch.optim.Muon": (
            "use muon, which hands it every weight as a matrix, and biases and norms to AdamW"
        ),
    }
)

_NEEDED = ("step", "state_dict", "load_state_dict")
_BESIDE = ("lr", "weight_decay")


@dataclass(frozen=True, slots=True)
class Algorithm:
    """An optimizer that is ready to be built.

    Attributes:
        path: Import path of its class.
        make: Called with the parameter groups.
        defaults: Settings that a parameter group may override, with their values.
        base: What it stands on, if it is made of another.
        has_modes: Whether weights to train with and weights to evaluate are two things for it.
        one_pass: Whether a step needs the gradients at one point only.
    """

    path: str
    make: Callable[[list[dict[str, Any]]], Stepper]
    defaults: Mapping[str, Any]
    base: Algorithm | None = None
    has_modes: bool = False
    one_pass: bool = False

    @property
    def chain(self) -> list[str]:
        """Its path, then that of what it stands on, and so on: a state fits no other."""
        return [self.path, *(self.base.chain if self.base else [])]

    def build(self, groups: list[dict[str, Any]]) -> Stepper:
        """Build the optimizer over ``groups``.

        Raises:
            ValueError: The class refuses the parameters or the options; the message says what to do.
        """
        try:
            return self.make(groups)
        except (RuntimeError, TypeError, ValueError) as error:
            hint = HINTS.get(self.path)
            raise ValueError(f"{self.path}: {error}" + (f"; {hint}" if hint else "")) from error


def resolve(name: str, lr: float | None, weight_decay: float | None, options: Mapping[str, Any]) -> Algorithm:
    """Find the class that ``name`` means and check its options by building it once.

    Args:
        name: Short name, ``package.module.Class`` or ``package.module:Class``.
        lr: Learning rate; None for the class's own default.
        weight_decay: Weight decay; None for the class's own default.
        options: Other arguments of the class.

    Raises:
        ValueError: There is no such algorithm, it cannot be used, or an option does
            not fit; the message says which and names the nearest that would.
    """
    if name in WRAPPERS:
        return _resolve_wrapper(name, lr, weight_decay, options)
    path, cls = _find(name)
    given = {"lr": lr, "weight_decay": weight_decay}
    arguments = {key: value for key, value in given.items() if value is not None}
    for key in arguments:
        if key not in _arguments(cls):
            raise ValueError(f"{path} has no {key}; leave it out")
    for key in options.keys() & set(_BESIDE):
        raise ValueError(f"{key} belongs beside algorithm, not in options")
    arguments |= _checked(path, cls, options)
    if name in SHORT_NAMES and path in FUSED and not options.keys() & {"foreach", "fused", "differentiable"}:
        arguments["fused"] = True
    algorithm = Algorithm(path, lambda groups: cls(groups, **arguments), {})
    probe = _probe(algorithm)
    return replace(
        algorithm,
        defaults=dict(getattr(probe, "defaults", {})),
        has_modes=with_modes(probe) is not None,
        one_pass=not needs_closure(probe),
    )


def _resolve_wrapper(
    name: str, lr: float | None, weight_decay: float | None, options: Mapping[str, Any]
) -> Algorithm:
    cls = WRAPPERS[name]
    if "base" not in options:
        raise ValueError(f"{name} needs another algorithm in its options, for example {{base: adamw}}")
    base = resolve(str(options["base"]), lr, weight_decay, options.get("base_options") or {})
    own = {key: value for key, value in options.items() if key not in {"base", "base_options"}}
    arguments = _checked(name, cls, own)
    algorithm = Algorithm(
        name, lambda groups: cls(base.build(groups), **arguments), base.defaults, base, base.has_modes
    )
    return replace(algorithm, one_pass=not needs_closure(_probe(algorithm)))


def _probe(algorithm: Algorithm) -> Stepper:
    """Build once over one matrix, so that a wrong value is told before the run starts."""
    return algorithm.build([{"params": [nn.Parameter(torch.zeros(2, 2))]}])


def _find(name: str) -> tuple[str, Callable[..., Stepper]]:
    if name in COMPOSITES:
        return SHORT_NAMES[name], COMPOSITES[name]
    path = SHORT_NAMES.get(name, name).replace(":", ".")
    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        raise ValueError(
            f"there is no algorithm '{name}'{nearest(name.lower(), [*SHORT_NAMES, *WRAPPERS])} "
            "(give a short name, or an import path such as torch_optimizer.Lamb)"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"algorithm '{name}': {module_name} cannot be imported ({error})") from error
    found = getattr(module, class_name, None)
    if not inspect.isclass(found) or not all(callable(getattr(found, method, None)) for method in _NEEDED):
        raise ValueError(
            f"algorithm '{name}': {module_name} has no optimizer class '{class_name}'"
            f"{nearest(class_name, dir(module))}"
        )
    if path in REFUSED:
        raise ValueError(f"{path} {REFUSED[path]}")
    return path, cast("Callable[..., Stepper]", found)


def _arguments(cls: Callable[..., Stepper]) -> Mapping[str, inspect.Parameter]:
    """Return the constructor's arguments after the first, which takes the parameters."""
    return dict(list(inspect.signature(cls).parameters.items())[1:])


def _checked(path: str, cls: Callable[..., Stepper], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` for ``cls``, with lists as tuples where the class has a tuple."""
    arguments = _arguments(cls)
    takes_any = any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values())
    known = [name for name in arguments if name not in _BESIDE]
    for name in options:
        if name not in known and not takes_any:
            raise ValueError(
                f"{path} has no option '{name}'{nearest(name, known)}; it has: {', '.join(sorted(known))}"
            )
        if name in arguments and isinstance(options[name], str) and is_switch(arguments[name]):
            raise ValueError(f"{path}: {name} is the text '{options[name]:.40}'; write true or false")
    return {
        name: tuple(value)
        if isinstance(value, list) and name in arguments and isinstance(arguments[name].default, tuple)
        else value
        for name, value in options.items()
    }


def is_switch(argument: inspect.Parameter) -> bool:
    """Tell whether ``argument`` is true or false, and any text would be true, ``no`` as well."""
    if argument.annotation is argument.empty:
        return isinstance(argument.default, bool)
    written = inspect.formatannotation(argument.annotation)
    return "bool" in written and "str" not in written and "Literal" not in written


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or nothing when no known word is near."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{found[0]}'?" if found else ""
