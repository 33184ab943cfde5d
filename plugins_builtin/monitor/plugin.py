"""The monitor plugin."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor

from ringfence import Batch, Gradients, Parameters, Report, TensorMap

from .findings import Findings
from .outputs import classification
from .picture import grid
from .summary import Summary, joint_norm, norm_of, ratio, summarise

#: A report holds at most 4096 scalars and a layer has ten; the first layers of a larger model are reported.
MAX_LAYERS = 400
#: Counts and edges of all histograms that a report holds; those of the first layers of a larger model.
MAX_NUMBERS = 42_000


class Monitor:
    """Report gradient norms, distributions of weights, sizes of updates, outputs and a picture of the batch.

    Args:
        layers: Patterns of the parameter names to report one by one, all if left out;
            the norms of the whole model always cover everything.
        weights: Report mean, spread, range and the shares of zeros and of non-finite values of weights.
        gradients: Report the norm and the same shares of gradients.
        updates: Report how large updates are relative to the weights.
        bins: Bins of the histograms of weights and gradients; 0 for none.
        outputs: For classes: report accuracy, confidence and entropy of the batch.
        images: Most samples in the picture of the batch; 0 for none.
    """

    role = "monitor"

    def __init__(
        self,
        *,
        layers: list[str] | None = None,
        weights: bool = True,
        gradients: bool = True,
        updates: bool = True,
        bins: Annotated[int, Ge(0), Le(512)] = 64,
        outputs: bool = True,
        images: Annotated[int, Ge(0), Le(256)] = 16,
    ) -> None:
        self._patterns = ("*",) if layers is None else tuple(layers)
        self._weights = weights
        self._gradients = gradients
        self._updates = updates
        self._bins = bins
        self._outputs = outputs
        self._images = images

    def forward(self, batch: Batch, outputs: Tensor) -> Report | None:
        """Report how sure the model is of the batch, and show the batch as the model saw it."""
        scalars = classification(batch, outputs) if self._outputs else {}
        picture = grid(batch.inputs, self._images) if self._images else None
        if not scalars and picture is None:
            return None
        return Report(scalars=scalars, images={} if picture is None else {"batch": picture})

    def backward(self, parameters: Parameters, updates: Parameters, gradients: Gradients) -> Report:
        """Report norms, distributions and update sizes.

        Raises:
            ValueError: A pattern of ``layers`` matches no parameter.
        """
        found = Findings()
        layers = self._choose(parameters, found)
        drawn = self._draw(layers, found)
        if self._gradients:
            norms = self._look(gradients, layers, drawn, found.gradient)
            found.overall("grad_norm", joint_norm(norms.values()))
        if self._weights or self._updates:
            weights = self._look(parameters, layers if self._weights else (), drawn, found.weight)
            found.overall("weight_norm", joint_norm(weights.values()))
        if self._updates:
            changes = {name: norm_of(update) for name, update in updates.items()}
            for name in layers:
                found.layer("update_ratio", name, ratio(changes[name], weights[name]))
            total = joint_norm(changes.values())
            found.overall("update_norm", total)
            found.overall("update_ratio", ratio(total, joint_norm(weights.values())))
        return found.report()

    def _look(
        self,
        tensors: TensorMap,
        layers: Collection[str],
        drawn: Collection[str],
        take: Callable[[str, Summary], None],
    ) -> dict[str, float]:
        """Describe the chosen layers, those to be drawn with a histogram; return the norm of every tensor."""
        norms = {}
        for name, tensor in tensors.items():
            if name in layers:
                summary = summarise(tensor, self._bins if name in drawn else 0)
                take(name, summary)
                norms[name] = summary.norm
            else:
                norms[name] = norm_of(tensor)
        return norms

    def _draw(self, layers: Collection[str], found: Findings) -> Collection[str]:
        """Return those of the layers whose histograms a report can hold."""
        if not self._bins:
            return ()
        a_layer = (self._weights + self._gradients) * (2 * self._bins + 1)
        room = MAX_NUMBERS // max(a_layer, 1)
        if len(layers) > room:
            found.overall("histograms_left_out", len(layers) - room)
        return dict.fromkeys(list(layers)[:room])

    def _choose(self, names: Iterable[str], found: Findings) -> Collection[str]:
        """Return the parameters to report one by one, in the model's order."""
        names = list(names)
        for pattern in self._patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"layers has '{pattern}', which matches no parameter; there are {names[:5]}")
        chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in self._patterns)]
        if len(chosen) > MAX_LAYERS:
            found.overall("layers_left_out", len(chosen) - MAX_LAYERS)
        return dict.fromkeys(chosen[:MAX_LAYERS])
