"""Parts of a model that are trained by turns, each with a loss of its own, as the two of a GAN are.

One optimizer serves all: the parameters of the others have no gradient in a step, so that it leaves them and
what it keeps of them as they are. Whose turn it is follows from the step alone, in a run that is resumed too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from .loss import Loss
from .tensor_names import named_parameters


@dataclass(frozen=True, slots=True)
class Turn:
    """Some steps in a row that train one part of the model.

    Attributes:
        parameters: Names of what is trained.
        loss: What these steps minimise.
        steps: How many, >= 1.
    """

    parameters: frozenset[str]
    loss: Loss
    steps: int = 1


class Alternation:
    """Gives each step its turn.

    Args:
        turns: In this order, over and over.
        model: Whose parameters they name.
    """

    def __init__(self, turns: Sequence[Turn], model: nn.Module) -> None:
        self._order = [turn for turn in turns for _ in range(turn.steps)]
        named = frozenset().union(*(turn.parameters for turn in turns))
        self._parameters = {name: p for name, p in named_parameters(model).items() if name in named}
        self._turn: Turn | None = None

    def begin(self, step: int) -> Loss:
        """Have only the parameters whose turn it is in ``step`` be given gradients; return its loss."""
        turn = self._order[step % len(self._order)]
        if turn is not self._turn:
            for name, parameter in self._parameters.items():
                parameter.requires_grad_(name in turn.parameters)
            self._turn = turn
        return turn.loss

    def end(self) -> None:
        """Leave all parameters as they were."""
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
        self._turn = None
