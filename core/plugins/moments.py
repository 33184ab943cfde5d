"""The moments of a step: what there is at each, what may come of it, and which methods fire there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Never, NotRequired, TypedDict, TypeVar

from torch import Tensor

from ..hooks.role import Moment
from ..hooks.specs import ROLES
from ..hooks.trees import Tree
from ..hooks.types import AnotherPass, Batch, Gradients, LossScale, LossTerm, Metrics, Parameters, StepInfo
from .interface import Plugin
from .result_kinds import ResultKind, kinds_of

Values = TypeVar("Values", bound=Mapping[str, object])
Change = TypeVar("Change")


class BatchValues(TypedDict):
    """Values at hand as a batch is got ready."""

    batch: Batch


class ParameterValues(TypedDict):
    """Values at hand before a step's first forward pass."""

    parameters: Parameters


class LossValues(TypedDict):
    """Values at hand between a forward pass and ``loss.backward()``; the manager adds the metrics."""

    batch: Batch
    outputs: Tree
    loss: float
    metrics: NotRequired[Metrics]


class GradientValues(TypedDict):
    """Values at hand between ``loss.backward()`` and the optimizer."""

    gradients: Gradients
    parameters: Parameters


class UpdateValues(TypedDict):
    """Values at hand for the optimizer."""

    parameters: Parameters
    gradients: Gradients
    loss: float


class UpdatedValues(TypedDict):
    """Values at hand after the update; ``updates`` is None if no method that is due takes it."""

    parameters: Parameters
    updates: Parameters | None
    gradients: Gradients
    metrics: NotRequired[Metrics]


class SampleValues(TypedDict):
    """Values at hand of each batch of a step that is done."""

    losses: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PluginMethod:
    """One method of a running plugin, as it is fired.

    Attributes:
        plugin: Whose.
        name: ``"forward"`` or ``"backward"``.
        changes: The argument that its result replaces, None if it only reads.
        kind: Of its results.
        observes: Its plugin is given a copy now and then, and not waited for.
        in_place: Its result may overwrite what it replaces: after a fault of it no run goes on from there.
        needs: The arguments that it takes, and the one that its result is held to.
    """

    plugin: Plugin
    name: str
    changes: str | None
    kind: ResultKind
    observes: bool
    in_place: bool
    needs: frozenset[str]

    @classmethod
    def of(cls, plugin: Plugin, name: str) -> PluginMethod:
        """Describe the method ``name`` of ``plugin`` by what its role says."""
        role = plugin.spec.role_info
        changes, kind = role.methods[name].changes, kinds_of(role)[name]
        needs = {*plugin.accepts[name], kind.measured_by} - {"step", ""}
        in_place = kind.is_map and not role.may_disable
        return cls(plugin, name, changes, kind, role.observes, in_place, frozenset(needs))

    def is_due(self, step: StepInfo) -> bool:
        """Tell whether it is to be called at ``step``."""
        return not self.observes or (
            step.micro_batch == step.pass_index == 0 and step.global_step % self.plugin.spec.every == 0
        )


class Firing(Generic[Values, Change]):
    """The methods that fire at one moment.

    Attributes:
        methods: Role by role as in ``HOOKS``, those of a role in the job's order.
        needs: What any of them takes.
    """

    __slots__ = ("methods", "needs")

    def __init__(self) -> None:
        self.methods: tuple[PluginMethod, ...] = ()
        self.needs: frozenset[str] = frozenset()

    def let_fire(self, methods: tuple[PluginMethod, ...]) -> None:
        """Let ``methods`` fire, and no others."""
        self.methods = methods
        self.needs = frozenset().union(*(method.needs for method in methods))

    def is_due(self, step: StepInfo, argument: str | None = None) -> bool:
        """Tell whether a method is to be called at ``step`` (and takes ``argument``)."""
        return any(
            method.is_due(step) and (argument is None or argument in method.needs) for method in self.methods
        )


@dataclass(frozen=True, slots=True)
class Moments:
    """The methods that fire at each moment of a run, by the name of the ``Moment`` in small letters."""

    batch: Firing[BatchValues, Batch] = field(default_factory=Firing)
    parameters: Firing[ParameterValues, Mapping[str, Tensor]] = field(default_factory=Firing)
    loss: Firing[LossValues, LossTerm | LossScale] = field(default_factory=Firing)
    after_loss: Firing[LossValues, Never] = field(default_factory=Firing)
    gradients: Firing[GradientValues, Gradients] = field(default_factory=Firing)
    update: Firing[UpdateValues, Mapping[str, Tensor] | AnotherPass] = field(default_factory=Firing)
    after_update: Firing[UpdatedValues, Never] = field(default_factory=Firing)
    after_step: Firing[SampleValues, Never] = field(default_factory=Firing)

    def let_fire(self, implementers: Mapping[str, Sequence[Plugin]]) -> None:
        """Let running plugins fire when their roles say so.

        Args:
            implementers: Hook to those that implement it.
        """
        fires: dict[Moment, list[PluginMethod]] = {moment: [] for moment in Moment}
        named = [(method, name) for role in ROLES.values() for name, method in role.methods.items()]
        for method, name in sorted(named, key=lambda pair: pair[0].order):
            found = implementers[method.hook.__name__]
            fires[method.fires] += [PluginMethod.of(plugin, name) for plugin in found]
        for moment, methods in fires.items():
            firing: Firing[Any, Any] = getattr(self, moment.name.lower())
            firing.let_fire(tuple(methods))
