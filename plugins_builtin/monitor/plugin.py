"""The monitor plugin."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any

from annotated_types import Ge, Le
from torch import Tensor

from ringfence import Batch, Gradients, Parameters, Report, TensorMap, tensors_of

from .findings import Findings
from .outputs import classification, confusion_picture, named, prediction
from .picture import grid, is_image
from .summary import Summary, joint_norm, norm_of, ratio, summarise

#: A report holds at most 4096 scalars and a layer has ten; the first layers of a larger model are reported.
MAX_LAYERS = 400
#: Counts and edges of all histograms that a report holds; those of the first layers of a larger model.
MAX_NUMBERS = 42_000
#: Outputs that are described; a model that returns the states of all its layers returns many.
MAX_OUTPUTS = 64


class Monitor:
    """Report gradient norms, distributions of weights, sizes of updates, outputs and a picture of the batch.

    Args:
        layers: Patterns of the parameter names to report one by one, all if left out;
            the norms of the whole model always cover everything.
        weights: Report mean, spread, range and the shares of zeros and of non-finite values of weights.
        gradients: Report the norm and the same shares of gradients.
        updates: Report how large updates are relative to the weights.
        bins: Bins of the histograms of weights and gradients; 0 for none.
        outputs: For classes: report accuracy, confidence and entropy of the batch. Of outputs that are a dict
            or a list: report mean, spread, range and the share of non-finite values of each.
        images: Most samples in the picture of the batch; 0 for none. Of inputs that are a dict or a list the
            first images are shown.
        confusion: For classes: show which were taken for which, over what counts of the batch.
    """

    role = "monitor"
    takes_trees = True

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
        confusion: bool = False,
    ) -> None:
        self._patterns = ("*",) if layers is None else tuple(layers)
        self._weights = weights
        self._gradients = gradients
        self._updates = updates
        self._bins = bins
        self._outputs = outputs
        self._images = images
        self._confusion = confusion

    def forward(self, batch: Batch, outputs: Any) -> Report | None:
        """Report how sure the model is of the batch, and show the batch as the model saw it."""
        found = Findings()
        predicted = prediction(outputs) if self._outputs or self._confusion else None
        classified = (
            None if predicted is None else classification(batch, predicted, confusion=self._confusion)
        )
        if classified is not None and self._outputs:
            for name, value in classified.scalars.items():
                found.overall(name, value)
        if classified is not None and classified.confusion is not None:
            found.picture("confusion", confusion_picture(classified.confusion))
        if self._outputs and not isinstance(outputs, Tensor):
            _describe(outputs, found)
        if self._images:
            images = next((tensor for tensor in tensors_of(batch.inputs) if is_image(tensor)), None)
            picture = None if images is None else grid(images, self._images)
            if picture is not None:
                found.picture("batch", picture)
        return found.report() if found else None

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


def _describe(outputs: Any, found: Findings) -> None:
    """Describe each of several outputs."""
    tensors = [
        (name, tensor) for name, tensor in named(outputs) if tensor.numel() and not tensor.is_complex()
    ]
    if len(tensors) > MAX_OUTPUTS:
        found.overall("outputs_left_out", len(tensors) - MAX_OUTPUTS)
    for name, tensor in tensors[:MAX_OUTPUTS]:
        found.output(name, summarise(tensor))
