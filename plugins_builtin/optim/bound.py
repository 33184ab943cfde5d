"""An optimizer over the parameters of one model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

from torch import nn

from ringfence import Gradients, Parameters, StepInfo, TensorMap

from .algorithms import MAX_DIMS, Algorithm
from .groups import SCHEDULE, Grouping, Schedule, schedule_of
from .regroup import by_first_name, laid_out, overrule, regrouped
from .state import copied, restore
from .wrappers import needs_closure, with_modes


class Bound:
    """Build an optimizer over ``point``, and feed it parameters and gradients from outside.

    Args:
        algorithm: What to build.
        grouping: Which parameters get which settings.
        point: The parameters, writable; steps are made in place.
        options: All that the job says of the optimizer; plain data. A state that other options have
            saved takes over what they say otherwise.

    Raises:
        ValueError: The algorithm does not take such parameters, or a pattern matches none.
    """

    def __init__(
        self, algorithm: Algorithm, grouping: Grouping, point: Parameters, options: Mapping[str, Any]
    ) -> None:
        _check_parameters(algorithm, point)
        self._schedules: list[Schedule | None] = []
        self._algorithm = algorithm
        # Whole numbers have no gradient: those are frozen, whatever they are for.
        self._parameters = {name: nn.Parameter(t) for name, t in point.items() if t.is_floating_point()}
        groups = grouping.apply(self._parameters)
        schedules = [settings.pop(SCHEDULE, None) for _, settings in groups]
        self._names = [names for names, _ in groups]
        self._dims = {name: tensor.dim() for name, tensor in point.items()}
        self.optimizer = algorithm.build(
            [{"params": [self._parameters[name] for name in names], **settings} for names, settings in groups]
        )
        if any(schedules):
            # An algorithm made of others parts the groups once more.
            parted = by_first_name(schedules, self._names, laid_out(self.optimizer, self._names, self._dims))
            self._schedules = [None if told is None else schedule_of(told) for told in parted]
        self._options = options
        # Before a step or a state changes them: what the options alone say.
        self._settings = [
            {key: copied(value) for key, value in group.items() if key != "params"}
            for group in self.optimizer.param_groups
        ]
        self.needs_closure = needs_closure(self.optimizer)
        self._modes = with_modes(self.optimizer)
        self._is_torchs = type(self.optimizer).__module__.startswith("torch.optim.")
        self._gradients: TensorMap | None = None
        self._point = point

    def move_to(self, point: Parameters) -> None:
        """Go on at ``point``, writable; the values there are the run's, not this optimizer's."""
        if point is not self._point or not self._is_torchs:
            # Only those of others put new tensors in the place of their parameters.
            self._point = point
            for name, parameter in self._parameters.items():
                parameter.data = point[name]

    def train(self) -> None:
        """Move the parameters from where the model is evaluated to where it is trained."""
        self._modes.train()

    def eval(self) -> None:
        """Move them back, where the two differ."""
        if self._modes is not None:
            self._modes.eval()

    def set_gradients(self, gradients: Gradients, *, copy: bool) -> None:
        """Set each parameter's gradient; one that is absent has none.

        Args:
            gradients: Read-only, and valid during this call only.
            copy: Whether the optimizer writes into them, or needs them for longer.
        """
        if copy or self.needs_closure:
            gradients = self._copy(gradients)
        for name, parameter in self._parameters.items():
            parameter.grad = gradients.get(name)

    def drop_gradients(self) -> None:
        """Let go of memory that is not this process's."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def scaled_lr(self, step: StepInfo) -> AbstractContextManager[float | None]:
        """Multiply each group's learning rate by the factor of ``step`` for a while, or of its own schedule.

        Returns:
            Gives the first group's learning rate, scaled; None if the algorithm has none.

        Raises:
            ValueError: A group has a schedule, and nobody knows how many steps there are.
        """
        groups, factor = self.optimizer.param_groups, step.lr_factor
        if not self._schedules:
            if factor == 1.0:
                return nullcontext(groups[0].get("lr"))
            return self._scaled_lr(groups, [factor] * len(groups))
        if step.steps_total < 1:
            raise ValueError(
                "a group has a schedule of its own, which needs steps_total, the number of steps"
            )
        place = step.global_step, step.steps_total
        return self._scaled_lr(groups, [factor if s is None else s.factor(*place) for s in self._schedules])

    @staticmethod
    @contextmanager
    def _scaled_lr(groups: list[dict[str, Any]], factors: Sequence[float]) -> Iterator[float | None]:
        base = [group.get("lr") for group in groups]
        scaled = [None if lr is None else lr * factor for lr, factor in zip(base, factors, strict=True)]
        _set_lr(groups, scaled)
        try:
            yield scaled[0]
        finally:
            # An algorithm may find a rate of its own on the way, as SWATS does; the schedule goes on from it.
            found = [group.get("lr") for group in groups]
            own = [
                lr if f is None or f == s else f / (factor or 1.0)
                for lr, s, f, factor in zip(base, scaled, found, factors, strict=True)
            ]
            _set_lr(groups, own)

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Make one step in place."""
        if self._is_torchs:
            self.optimizer.step(closure)
            return
        with warnings.catch_warnings():
            # Old overloads that some of torch_optimizer still call; users can do nothing about them.
            warnings.filterwarnings("ignore", message="This overload of", category=UserWarning)
            self.optimizer.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain data; its tensors are the optimizer's own, which later steps change."""
        return {
            "algorithm": self._algorithm.path,
            "chain": self._algorithm.chain,
            "names": copied(self._names),
            "options": copied(self._options),
            "settings": copied(self._settings),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned; its tensors become the optimizer's.

        Where the job's options are others than those that saved the state, what they say otherwise holds
        from now on; all else is as saved, also what the algorithm has changed on the way.

        Raises:
            ValueError: The state belongs to other parameters.
        """
        names, saved = state["names"], state["optimizer"]
        changed = state.get("options", self._options) != self._options
        if names != self._names:
            if not changed or sorted(chain(*names)) != sorted(self._parameters):
                raise ValueError("the saved state belongs to other parameters, or to other groups of them")
            saved = regrouped(saved, names, self._names, self._dims)
        restore(self.optimizer, saved)
        if changed:
            old, new = (laid_out(self.optimizer, each, self._dims) for each in (names, self._names))
            then = by_first_name(state["settings"], old, new)
            overrule(self.optimizer.param_groups, then, self._settings)

    def _copy(self, gradients: Gradients) -> TensorMap:
        """Copy in one pass over memory, into the same memory as last time where that fits."""
        known = self._gradients
        fits = (
            known is not None
            and known.specs == gradients.specs
            and known.buffer.numel() == gradients.buffer.numel()
        )
        if known is None or not fits:
            known = self._gradients = gradients.clone()
        else:
            known.buffer.copy_(gradients.buffer)
        return known


def _set_lr(groups: list[dict[str, Any]], rates: list[float | None]) -> None:
    for group, lr in zip(groups, rates, strict=True):
        if lr is not None:
            group["lr"] = lr


def _check_parameters(algorithm: Algorithm, parameters: Parameters) -> None:
    most, advice = MAX_DIMS.get(algorithm.path, (None, ""))
    for name, tensor in parameters.items():
        if tensor.is_complex():
            raise ValueError(
                f"parameter '{name}' is of {tensor.dtype}; an optimizer takes real floating point only"
            )
        if most is not None and tensor.dim() > most:
            raise ValueError(
                f"{algorithm.path} cannot take '{name}' of shape {tuple(tensor.shape)}: {advice}"
            )
