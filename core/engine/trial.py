"""The trial before the start: model, data, loss and metric meet once, in training and in evaluation.

Whatever cannot work is told before a step is taken, with the line of the user's own code, and the trial
leaves no trace: a run with it has the weights of a run without.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..hooks.errors import DataError
from ..hooks.trees import Tree
from ..imports.user_frames import user_frame
from ..reproducibility.deterministic import repeatable
from ..reproducibility.generator_states import preserved_rng
from ..tensors.tree_form import describe_tree
from .attributes import Attributes
from .buffers import changed_layouts, copy_buffers, restore_buffers, shared_buffers
from .config import TrainConfig
from .data import Data, Dataset, Normalise
from .evaluate import evaluating
from .extra_state import copy_extra_state, load_extra_state
from .forks import ending_forks
from .forward import forward, to_device
from .layer_shapes import count_macs, failing_layer, noting_shapes
from .measurement import exact_loss
from .objective import Objective
from .parts import describe_outputs
from .setup import Setup, Tried
from .tensor_names import named_buffers, named_parameters

_NAMES_LISTED = 5
#: What torch says of batch norm over one number, and what helps.
_ALONE = "Expected more than 1 value per channel when training"
_ADVICE = (
    " (choose a batch_size that leaves no batch of one sample at the end: batch norm learns nothing from it)"
)


@repeatable()
@ending_forks()
def try_out(setup: Setup) -> Tried:
    """Pass batches of the sizes of the run through the model, forward and backward, and evaluate.

    Parameters, gradients, buffers, modes, random states and what Python attributes hold of plain data are
    afterwards as they were. Parameters that take their shape from the first batch have it then. Of the
    data the first samples are used, and the last ones for the short batch at the end.

    Raises:
        DataError: They do not fit; nothing has been trained.
    """
    model, data, plan = setup.model, setup.data, setup.plan
    setup.objective.check_data(data.train)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise DataError("the model has no parameter that requires a gradient; there is nothing to train")
    trial = _Trial(model, setup.objective, Normalise(data, setup.device), setup.device)
    first, *_ = plan.sizes(0)
    *_, last = plan.sizes(plan.steps_per_epoch - 1)
    if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        trial.give_shapes(data.train, last)
    before = _Before(model)
    with before.restored(setup.device):
        for size in sorted({first, last}, reverse=True):
            trial.backward(data.train, torch.arange(size))
        told = tuple(before.told())
    with before.restored(setup.device), noting_shapes(model) as shapes:
        # No more at once than in training, which takes long enough: what fails is the form, not the number.
        for part in filter(None, (data.validation, data.test)):
            trial.evaluate(part, setup.config.eval_batch_size, most=first)
        unsteady = before.unsteady()
    return Tried(told, unsteady, shapes, trial.returned)


@repeatable()
@ending_forks()
def macs_a_sample(setup: Setup) -> int:
    """Return how often the model multiplies and adds for one sample in evaluation; it leaves no trace."""
    model, train, before = setup.model, setup.data.train, _Before(setup.model)
    normalise = Normalise(setup.data, setup.device)
    with before.restored(setup.device), evaluating(model):
        one = train.batch(train.rows_at(torch.arange(1)))
        inputs = normalise(to_device(one.inputs, setup.device))
        return count_macs(lambda: forward(model, inputs))


def try_together(model: nn.Module, data: Data, config: TrainConfig, frozen: Collection[str] = ()) -> Setup:
    """Return what ``train`` takes, once it is known to fit together.

    Args:
        model: What to train.
        data: What to train and test on.
        config: How.
        frozen: Names of parameters that are to stay as they are.

    Raises:
        JobError: The configuration does not fit the data or this machine.
        DataError: Model, data, loss and metric do not fit together.
    """
    setup = Setup.of(model, data, config, frozen)
    setup = replace(setup, tried=try_out(setup))
    setup.objective.try_metric(data.judging)
    return setup


@dataclass(slots=True)
class _Trial:
    """The parts of a trial, apart from the data.

    Attributes:
        returned: What the model returned in training in words, where that was no tensor.
    """

    model: nn.Module
    objective: Objective
    normalise: Normalise
    device: torch.device
    returned: str = ""

    def give_shapes(self, dataset: Dataset, samples: int) -> None:
        """Let lazy modules see a batch: what they make of it stays."""
        with preserved_rng(self.device), torch.no_grad():
            self._outputs(dataset, torch.arange(samples), "training")

    def evaluate(self, dataset: Dataset, batch_size: int, *, most: int) -> None:
        """Evaluate the first batch, and the short one at the end, but at most ``most`` samples of each."""
        count = len(dataset)
        sizes = {min(size, most) for size in (batch_size, count % batch_size) if 0 < size <= count}
        batches = [torch.arange(count - size, count) for size in sorted(sizes, reverse=True)]
        with evaluating(self.model), torch.no_grad():
            for indices in batches:
                outputs, targets = self._outputs(dataset, indices, "evaluation")
                with _telling("the loss could not be computed"):
                    exact_loss(self.objective.loss, self.objective.loss.judged(outputs), targets)
                self.objective.try_metrics_on(dataset, outputs, targets)

    def backward(self, dataset: Dataset, indices: Tensor) -> None:
        """Run forward and backward over a batch."""
        outputs, targets = self._outputs(dataset, indices, "training")
        with _telling("the loss could not be computed"):
            loss = self.objective.loss(self.objective.loss.judged(outputs), targets)
        if not loss.requires_grad:
            raise DataError(
                "the model's outputs have no gradient, so that nothing can be learned: forward runs under "
                f"torch.no_grad(), or detaches what it returns{_place_of_forward(self.model)}"
            )
        with _telling("the backward pass through the model failed"):
            loss.backward()  # type: ignore[no-untyped-call]
        if all(parameter.grad is None for parameter in self.model.parameters()):
            raise DataError(
                "none of the model's parameters got a gradient, so that nothing can be learned: what forward "
                f"returns does not depend on them{_place_of_forward(self.model)}"
            )

    def _outputs(self, dataset: Dataset, indices: Tensor, mode: str) -> tuple[Any, Tree]:
        """Return what the model makes of a batch, and the targets, on the device."""
        batch = dataset.batch(dataset.rows_at(indices))
        inputs = self.normalise(to_device(batch.inputs, self.device))
        what = f"the model failed on a batch of {len(batch)} in {mode} mode, with inputs {_form(inputs)}"
        given = self.objective.loss.arguments(to_device(batch.targets, self.device))

        def call() -> Any:
            return forward(self.model, inputs, given)

        with _telling(what, lambda: failing_layer(self.model, call), advise=True):
            outputs = call()
        if mode == "training" and not isinstance(outputs, Tensor):
            self.returned = describe_outputs(outputs)
        try:
            self.objective.check_outputs(outputs, batch.targets, batch.num_classes)
        except DataError as error:
            where = "" if mode == "training" else f"in {mode} mode "
            raise DataError(f"{where}{error}{_place_of_forward(self.model)}") from error
        return outputs, to_device(batch.targets, self.device)


class _Before:
    """The state of a model before it is tried.

    Args:
        model: Which.

    Raises:
        DataError: What it says of its own state cannot be saved.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._attributes = Attributes(model)
        self._buffers, self._shared = copy_buffers(model), shared_buffers(model)
        self._parameters = {name: p.detach().clone() for name, p in named_parameters(model).items()}
        self._extra_state = _extra_state(model)

    @contextlib.contextmanager
    def restored(self, device: torch.device) -> Iterator[None]:
        """Put back all of it at the end, and the random states."""
        try:
            with preserved_rng(device):
                yield
        finally:
            self._restore()

    def told(self) -> Iterator[str]:
        """Yield what the user should know of what training has changed."""
        _extra_state(self._model)
        parameters = named_parameters(self._model)
        idle = [name for name, p in parameters.items() if p.requires_grad and p.grad is None]
        if idle:
            yield (
                f"{len(idle)} of {len(parameters)} parameters had no part in the loss of a first batch: "
                f"{_join_some(idle)}. Without a gradient they stay as they are"
            )
        sparse = [name for name, p in parameters.items() if p.grad is not None and p.grad.is_sparse]
        if sparse:
            yield (f"gradients of {_join_some(sparse)} are sparse; they are made dense, as plugins take them")
        yield from changed_layouts(self._buffers, named_buffers(self._model))
        counting = self._attributes.changed()
        if counting:
            yield (
                f"state that is saved nowhere changes in training: {_join_some(counting)}. If what the model "
                "computes depends on it, a run that is resumed or rolled back gets other weights: make it a "
                "buffer, or give the module get_extra_state() and set_extra_state()"
            )

    def unsteady(self) -> frozenset[str]:
        """Return the names of parameters and buffers that hold something else now."""
        now = {**named_parameters(self._model), **named_buffers(self._model)}
        before = {**self._parameters, **self._buffers}
        return frozenset(name for name, value in before.items() if not _same(now.get(name), value))

    def _restore(self) -> None:
        with torch.no_grad():
            for name, parameter in named_parameters(self._model).items():
                parameter.grad = None
                # Stride 0 marks an expanded view, which cannot be written to.
                if 0 not in parameter.stride():
                    parameter.copy_(self._parameters[name])
        # After them, since a buffer may be a view of a parameter.
        restore_buffers(self._model, self._buffers, self._shared)
        load_extra_state(self._model, self._extra_state)
        self._attributes.restore()


def _extra_state(model: nn.Module) -> dict[str, Any]:
    with _telling("get_extra_state() of the model failed"):
        return copy_extra_state(model)


@contextlib.contextmanager
def _telling(what: str, more: Callable[[], str] = str, *, advise: bool = False) -> Iterator[None]:
    """Make one message of whatever the user's code raises: what failed, what was said, and where.

    Args:
        what: What failed.
        more: Asked for what else is known of it, only then.
        advise: Whether to add what helps against batch norm's one complaint.

    Raises:
        DataError: That.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        said = str(error).strip().removesuffix(".")
        advice = _ADVICE if advise and _ALONE in said else ""
        told = f"{said}{advice}{more()}; at {user_frame(error)}"
        raise DataError(f"{what}: {type(error).__name__}: {told}") from error


def _form(inputs: Tree) -> str:
    return (
        f"of shape {tuple(inputs.shape)}"
        if isinstance(inputs, Tensor)
        else f"that are {describe_tree(inputs)}"
    )


def _place_of_forward(model: nn.Module) -> str:
    """Return where the model's forward begins; nothing of a model that is not the user's own."""
    code = getattr(inspect.unwrap(type(model).forward), "__code__", None)
    if code is None or type(model).__module__.startswith(("torch.", "ringfence.")):
        return ""
    return f"; forward of {type(model).__name__} is at {code.co_filename}:{code.co_firstlineno}"


def _same(now: Tensor | None, before: Tensor) -> bool:
    if now is None or now.shape != before.shape or now.dtype != before.dtype:
        return False
    return torch.equal(now, before)


def _join_some(names: list[str]) -> str:
    return ", ".join(names[:_NAMES_LISTED]) + (
        f" and {len(names) - _NAMES_LISTED} more" if len(names) > _NAMES_LISTED else ""
    )
