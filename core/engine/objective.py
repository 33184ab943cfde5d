"""The objective: the loss that a run minimises, the metrics it is judged by, and whether all fits."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..hooks.errors import DataError, JobError
from ..hooks.trees import Tree
from ..tensors.tree_form import describe_tree
from .data import Dataset
from .loss import Loss, Term
from .losses import LOSSES
from .metrics import METRICS, Metric, TargetForm
from .own_metric import OwnMetric
from .parts import find_prediction, part_of, prediction_of

_METRIC_TRIAL_SAMPLES = 64
#: Of targets of a loss that takes numbers alone, and of others.
_DTYPES = ({torch.float32}, {torch.float32, torch.int64})
_CHANGE = "Change the model's last layer or the data's targets"


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss and the metrics of a run.

    Attributes:
        loss: What training minimises.
        metric_name: Of the metric that judges: what it is called in ``beside``, or a key of ``METRICS``.
        beside: Metrics by name, all of which are measured.
        metrics: All of them, the one that judges first.

    Raises:
        JobError: There is no such metric.
    """

    loss: Loss
    metric_name: str
    beside: Mapping[str, Metric] = field(default_factory=dict)
    metrics: Mapping[str, Metric] = field(init=False)

    def __post_init__(self) -> None:
        judge = self.beside.get(self.metric_name, METRICS.get(self.metric_name))
        if judge is None:
            raise JobError(f"there is no metric '{self.metric_name}'; choose one of {', '.join(METRICS)}")
        object.__setattr__(self, "metrics", {self.metric_name: judge, **self.beside})

    @property
    def loss_name(self) -> str:
        """Name of the loss as a job spells it."""
        return _name_of(self.loss)

    @property
    def metric(self) -> Metric:
        """The metric that judges."""
        return self.metrics[self.metric_name]

    def check_data(self, dataset: Dataset, part: str = "train", source: str = "") -> None:
        """Check that losses and metrics can be computed for ``dataset``.

        Args:
            dataset: Samples.
            part: What they are of the data, for messages.
            source: Where they come from, for messages.

        Raises:
            DataError: They need classes and the data hold numbers, or the reverse.
        """
        for term in self.loss.terms:
            name = _name_of(term.loss)
            _check_kind(
                "loss", name, term.loss.classes, {n: c.classes for n, c in LOSSES.items()}, dataset, term
            )
            wanted = part_of(dataset.targets, term.target, "target")
            if not term.loss.takes_any and not _is_one_kind(term.loss, wanted, dataset.num_classes):
                raise DataError(
                    f"the {part} data: loss '{name}' takes targets that are one tensor, float32 or classes, "
                    f"and they are {describe_tree(wanted)}. Name num_classes if they are classes, or give a "
                    "loss of your own"
                )
            if why := term.loss.misfit(
                wanted, None if wanted is not dataset.targets else dataset.num_classes
            ):
                raise DataError(f"the {part} data: loss '{name}' {why}")
        known = {name: metric.classes for name, metric in METRICS.items()}
        for name, metric in self.metrics.items():
            if not isinstance(metric, OwnMetric):
                _check_kind("metric", name, metric.classes, known, dataset, metric)
            self._check_classes(name, metric, dataset, source)

    def _check_classes(self, name: str, metric: Metric, dataset: Dataset, source: str) -> None:
        if dataset.num_classes is None or dataset.num_classes >= metric.min_classes:
            return
        if dataset.num_classes == 1:
            # Whatever the metric: there is nothing to learn.
            named = f", '{dataset.class_names[0]}'" if dataset.class_names else ""
            whose = f"'{source}' " if source else ""
            raise DataError(f"data {whose}have one class only{named}; there must be two to tell apart")
        raise DataError(
            f"metric '{name}' needs at least {metric.min_classes} classes; the data have "
            f"{dataset.num_classes}"
        )

    def try_metric(self, dataset: Dataset) -> None:
        """Compute the builtin metrics once for outputs of the right shape; imports what they are made of.

        Those of the user's are tried on what the model returns.

        Raises:
            DataError: One cannot be computed for such data.
        """
        for name, metric in self.metrics.items():
            if (
                metric.build is None
                or isinstance(metric, OwnMetric)
                or not isinstance(dataset.targets, Tensor)
            ):
                continue
            targets = dataset.targets[:_METRIC_TRIAL_SAMPLES]
            outputs = torch.zeros(_outputs_shape(targets, dataset.num_classes))
            try:
                with warnings.catch_warnings():
                    # Of a class that is not among these few there is nothing to tell.
                    warnings.simplefilter("ignore")
                    state = metric.build(TargetForm.of(dataset))
                    metric.update(state, outputs, targets)
                    metric.value(state)
            except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
                raise DataError(f"metric '{name}' cannot be computed for these data: {error}") from error

    def try_metrics_on(self, dataset: Dataset, outputs: Any, targets: Any) -> None:
        """Compute the metrics of the user's once for a batch, and look at what the builtin ones are given.

        Args:
            dataset: What the batch is of.
            outputs: What the model returned for it.
            targets: Of it.

        Raises:
            DataError: One does not take them, or gives no number.
        """
        for name, metric in self.metrics.items():
            if metric.build is None:
                continue
            given, wanted = self.judged_by(metric, outputs, targets)
            if not isinstance(metric, OwnMetric):
                _check_judged(name, given, wanted, None if metric.target is not None else dataset.num_classes)
                continue
            state = metric.build(TargetForm.of(dataset))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                metric.update(state, given, wanted)
                metric.value(state)

    def judged_by(self, metric: Metric, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Return what a metric takes of outputs and targets: of classes logits (B, K, …).

        Raises:
            DataError: They have no such parts.
        """
        if self.loss.by_model and isinstance(outputs, tuple):
            # The first of them is the loss.
            outputs = outputs[1:]
        given, wanted = part_of(outputs, metric.output, "output"), part_of(targets, metric.target, "target")
        if not isinstance(given, Tensor):
            # One of the user's may take all that the model returned.
            given = find_prediction(given) if isinstance(metric, OwnMetric) else prediction_of(given)
            given = part_of(outputs, metric.output, "output") if given is None else given
        if not metric.classes or not isinstance(given, Tensor):
            return given, wanted
        dims = _class_dims(term for term in self.loss.terms if term.output == metric.output)
        is_last = dims == {-1} or (None in dims and _has_classes_last(given, wanted))
        return (given.movedim(-1, 1) if is_last else given), wanted

    @property
    def has_classes_last(self) -> bool:
        """Whether the losses take outputs as (B, …, K) where each position has a class."""
        return _class_dims(self.loss.terms) == {-1}

    def check_outputs(self, outputs: Any, targets: Any, num_classes: int | None) -> None:
        """Check what the model returned for a batch of ``targets``.

        Raises:
            DataError: Type, dtype or shape is not what the loss needs.
        """
        for term in self.loss.terms:
            part, wanted = term.of(outputs, targets)
            _check_part(term.loss, part, wanted, num_classes if wanted is targets else None)


def _name_of(loss: Loss) -> str:
    return next((name for name, cls in LOSSES.items() if type(loss) is cls), "loss")


def _check_kind(
    what: str,
    name: str,
    classes: bool | None,  # noqa: FBT001 - what it compares
    known: Mapping[str, bool | None],
    dataset: Dataset,
    of: Term | Metric,
) -> None:
    """Check that a loss or a metric and the data are both of classes, or both of numbers."""
    if of.target is not None or classes is None or classes == (dataset.num_classes is not None):
        return
    fitting = ", ".join(sorted(name for name, c in known.items() if c != classes))
    kind = "classes" if not classes else "a regression"
    raise DataError(f"{what} '{name}' does not fit data of {kind}; choose one of {fitting}")


def _check_part(loss: Loss, outputs: Any, targets: Any, num_classes: int | None) -> None:
    if loss.takes_any:
        return
    if not outputs.is_floating_point():
        raise DataError(f"the model returned dtype {outputs.dtype}; expected floating point")
    found, expected = tuple(outputs.shape), loss.outputs_shape(outputs, targets, num_classes)
    if found != expected:
        classes = f" {num_classes}" if num_classes is not None else ""
        why = f"one output for each of{classes} classes" if loss.classes else "as many outputs as targets"
        advice = loss.hint(outputs, targets, num_classes)
        raise DataError(
            f"the model returned shape {found} for a batch of {len(targets)}; loss '{_name_of(loss)}' "
            f"needs {expected}, {why}. {advice or _CHANGE}"
        )


def _check_judged(name: str, outputs: Any, targets: Any, num_classes: int | None) -> None:
    """Check that a builtin metric can compare what it is given."""
    if not isinstance(targets, Tensor):
        raise DataError(
            f"metric '{name}' takes targets that are one tensor, and they are {describe_tree(targets)}; say "
            "which by its option target, or judge by the loss: metric: loss"
        )
    classes = num_classes
    if num_classes is None and not targets.is_floating_point() and outputs.dim() > 1:
        classes = outputs.shape[1]
    expected, found = _outputs_shape(targets, classes), tuple(outputs.shape)
    if found != expected:
        raise DataError(
            f"metric '{name}' compares outputs of shape {expected} with these targets, and the model "
            f"returned {found}; name the part that is meant by its option output, or judge by the loss: "
            "metric: loss"
        )


def _class_dims(terms: Iterable[Term]) -> set[int | None]:
    """Return where losses take the classes to lie; None of one that does not say."""
    return {getattr(term.loss, "class_dim", None) for term in terms}


def _has_classes_last(outputs: Tensor, targets: Tree) -> bool:
    """Tell whether outputs are (B, …, K), and cannot be (B, K, …), for classes (B, …)."""
    if not isinstance(targets, Tensor) or targets.is_floating_point() or outputs.dim() != targets.dim() + 1:
        return False
    found = outputs.shape
    return found[:-1] == targets.shape and (found[0], *found[2:]) != tuple(targets.shape)


def _is_one_kind(loss: Loss, targets: Tree, num_classes: int | None) -> bool:
    if not isinstance(targets, Tensor):
        return False
    return num_classes is not None or targets.dtype in _DTYPES[loss.classes is not False]


def _outputs_shape(targets: Tensor, num_classes: int | None) -> tuple[int, ...]:
    """Return (B, K, …) of classes, and otherwise the targets' own."""
    if num_classes is None or targets.is_floating_point():
        return tuple(targets.shape)
    return (targets.shape[0], num_classes, *targets.shape[1:])
