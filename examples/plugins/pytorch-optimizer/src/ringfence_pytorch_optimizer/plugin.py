"""The plugin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Ge, Gt

from ringfence import Gradients, Parameters, StepInfo, passthrough

from .algorithms import find
from .stepper import Stepper


class PytorchOptimizer:
    """Update the parameters with an optimizer of the package pytorch_optimizer.

    Args:
        algorithm: Its name, as ``pytorch_optimizer.get_supported_optimizers()`` lists it, such as ``adopt``.
        lr: Learning rate, which the job's schedule multiplies; the class's own default if left out.
        weight_decay: Weight decay; the class's own default if left out.
        options: Other arguments of the class.

    Raises:
        ValueError: There is no such algorithm, it cannot work, or an argument does not fit.
    """

    role = "optimizer"
    # It does not look ahead, so the parameters stay as they are before the pass.
    forward = passthrough

    def __init__(
        self,
        *,
        algorithm: str,
        lr: Annotated[float, Gt(0)] | None = None,
        weight_decay: Annotated[float, Ge(0)] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self._algorithm = find(algorithm, lr, weight_decay, options or {})
        self._stepper: Stepper | None = None
        self._loaded: Mapping[str, Any] = {}

    def backward(
        self, parameters: Parameters, gradients: Gradients, loss: float, step: StepInfo
    ) -> Parameters:
        """Return the updated parameters, in a copy: what a hook receives is read-only."""
        updated = parameters.clone()
        if self._stepper is None:
            self._stepper = Stepper(self._algorithm, updated)
            if self._loaded:
                self._stepper.load_state_dict(self._loaded)
                self._loaded = {}
        lr = self._stepper.step(
            updated, gradients.clone(), loss, lr_factor=step.lr_factor, seed=step.call_seed
        )
        if lr is not None:
            step.log("lr", lr)
        return updated

    def state_dict(self) -> Mapping[str, Any]:
        """Return what a run that is resumed needs to go on as if it had never stopped."""
        return self._loaded if self._stepper is None else self._stepper.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back.

        Raises:
            ValueError: Another algorithm saved it.
        """
        saved = state.get("algorithm", self._algorithm.name)
        if saved != self._algorithm.name:
            raise ValueError(f"the state was saved by '{saved}'; this is '{self._algorithm.name}'")
        # Built anew over the parameters of the next step.
        self._stepper = None
        self._loaded = state
