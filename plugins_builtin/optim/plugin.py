"""The optimizer plugin: any ``torch.optim``-style class over the run's parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from ringfence import AnotherPass, Gradients, JobError, Parameters, StepInfo, passthrough

from .algorithms import NEEDS_GRAPH, WRAPPERS, resolve
from .bound import Bound
from .closure import ClosureStep
from .groups import Grouping, parse_overrides
from .reads import ONLY_READ

#: What paths of algorithms that take no random numbers begin with.
_DRAWS_NOTHING = ("torch.optim.", f"{__package__}.")
#: In what torch says where somebody differentiates gradients once more.
_OF_GRAPHS = ("grad_fn", "create_graph", "does not require grad")


class UnfitError(JobError, ValueError):
    """What the job asks for does not fit the model: it would not the next time either."""


class Optim:
    """Update the parameters with any optimizer of ``torch.optim`` style.

    Args:
        algorithm: Short name (``lamb``) or import path (``torch_optimizer.Lamb``, ``package.module:Class``).
        lr: Learning rate, multiplied by the schedule's factor each step; the class's own default if left out.
        weight_decay: The class's own default if left out.
        no_decay: Patterns of parameter names that do not decay; ``auto`` spares
            parameters of at most one dimension: biases, and the weights of norm layers.
        groups: Entries of ``match``, patterns of names with ``|`` between them, and of the settings of the
            parameters that match; ``schedule`` among them takes the place of the job's.
        options: Other arguments of the class.

    Raises:
        ValueError: Something does not fit; the message says what would.
    """

    role = "optimizer"

    def __init__(
        self,
        *,
        algorithm: str,
        lr: Annotated[float, Gt(0)] | None = None,
        weight_decay: Annotated[float, Ge(0)] | None = None,
        no_decay: list[str] | Literal["auto"] = "auto",
        groups: list[dict[str, Any]] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self._algorithm = resolve(algorithm, lr, weight_decay, options or {})
        defaults = self._algorithm.defaults
        self._grouping = Grouping(
            overrides=parse_overrides(groups or [], defaults),
            no_decay=no_decay if isinstance(no_decay, str) else tuple(no_decay),
            weight_decay=float(defaults.get("weight_decay") or 0.0),
        )
        self._options = {
            "algorithm": algorithm,
            "lr": lr,
            "weight_decay": weight_decay,
            "no_decay": no_decay,
            "groups": groups or [],
            "options": options or {},
        }
        if not self._algorithm.has_modes:
            # Chosen as it is made, which the core of the same release honours: a call less each step.
            self.forward = passthrough  # type: ignore[assignment, method-assign]
        # None of torch, and none of this package, takes random numbers; the core then need not seed any.
        self.draws = not all(
            path in WRAPPERS or path.startswith(_DRAWS_NOTHING) for path in self._algorithm.chain
        )
        # The core then keeps nothing for a further pass.
        self.one_pass = self._algorithm.one_pass
        self._copy_gradients = self._algorithm.path not in ONLY_READ
        self._bound: Bound | None = None
        self._loaded: dict[str, Any] | None = None
        self._closure_step: ClosureStep | None = None

    def forward(self, parameters: Parameters, step: StepInfo) -> Parameters:  # noqa: ARG002 - the hook's
        """Move the parameters to where the algorithm wants the gradients.

        Between steps they are where it wants the model evaluated, and saved.
        """
        point = _writable(parameters)
        self._bind(point).train()
        return point

    def backward(
        self, parameters: Parameters, gradients: Gradients, loss: float, step: StepInfo
    ) -> Parameters | AnotherPass:
        """Make one step, or ask for the gradients at another point.

        Raises:
            ValueError: The parameters do not fit the algorithm, the groups or the loaded state.
            RuntimeError: A new step begins while another waits for its further pass.
        """
        if step.pass_index == 0 and self._closure_step is not None:
            self._give_up_step()
            raise RuntimeError(
                "the step before was never finished and the state is that of half a step; load a state first"
            )
        point = _writable(parameters)
        bound = self._bind(point)
        bound.set_gradients(gradients, copy=self._copy_gradients)
        with bound.scaled_lr(step) as lr:
            try:
                finished = self._advance(bound, loss)
            except RuntimeError as error:
                if any(words in str(error) for words in _OF_GRAPHS):
                    raise UnfitError(f"{self._algorithm.path} {NEEDS_GRAPH} ({error})") from error
                raise
        if not finished:
            return AnotherPass(point)
        bound.drop_gradients()
        bound.eval()
        if lr is not None:
            step.log("lr", lr)
        return point

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state; before the first step, what was loaded.

        Raises:
            RuntimeError: A step is under way; there is a state only between steps.
        """
        if self._closure_step is not None:
            raise RuntimeError("a step is under way; there is a state only between steps")
        if self._bound is not None:
            return self._bound.state_dict()
        return {} if self._loaded is None else self._loaded

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state`` at the next step; an empty one starts afresh.

        Raises:
            ValueError: It was saved by another algorithm.
        """
        own = self._algorithm.chain
        # A state of an early version tells the first of them only.
        saved = state.get("chain", [state["algorithm"], *own[1:]]) if state else own
        if saved != own:
            raise ValueError(f"the state was saved by {' over '.join(saved)}; this is {' over '.join(own)}")
        self._give_up_step()
        self._bound = None
        self._loaded = state or None

    def _bind(self, point: Parameters) -> Bound:
        if self._bound is None:
            try:
                self._bound = Bound(self._algorithm, self._grouping, point, self._options)
            except ValueError as error:
                raise UnfitError(str(error)) from error
            if self._loaded is not None:
                self._bound.load_state_dict(self._loaded)
                self._loaded = None
        else:
            self._bound.move_to(point)
        return self._bound

    def _advance(self, bound: Bound, loss: float) -> bool:
        if not bound.needs_closure:
            bound.step()
            return True
        if self._closure_step is None:
            self._closure_step = ClosureStep(bound.step)
        finished = self._closure_step.advance(loss)
        if finished:
            self._closure_step = None
        return finished

    def _give_up_step(self) -> None:
        """End a step whose further pass will not come, because the run was rolled back meanwhile."""
        if self._closure_step is not None:
            self._closure_step.cancel()
            self._closure_step = None


def _writable(parameters: Parameters) -> Parameters:
    """Return a copy of ``parameters``, where the core lays out a place for the result if it does."""
    draft: Callable[[], Parameters] = getattr(parameters, "draft", parameters.clone)
    return draft()
