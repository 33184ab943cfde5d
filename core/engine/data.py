"""Datasets and batches: what is trained, validated and tested on, and which samples make which step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..hooks.errors import DataError
from ..hooks.trees import Tree, map_tensors, tensors_of
from ..hooks.types import IGNORED, Batch, StepInfo, derive_seed, make_step
from ..tensors.buffer_pool import LARGE_BYTES, BufferPool
from ..tensors.byte_batch import ByteBatch, in_numbers
from ..tensors.tree_form import TreeError, describe_tree, named_tensors, to_tree
from .preprocessing import Preprocessing

#: Batches whose places in an epoch's order are cut out at once: one by one takes four times as long, and
#: all those of a large data set would take more memory than the order itself.
_CUT_AT_ONCE = 64


_TREES = frozenset((dict, list))
#: The place of a batch in a run: steps and passes over the data before its own, its number within the step,
#: and its samples, (B,) int64, as ``rows_at`` gives them. No class, which would cost as much as the rest.
BatchPlace = tuple[int, int, int, Tensor]
#: The epoch of samples that are not trained on.
NO_EPOCH = -1


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples and what to predict for them.

    Attributes:
        inputs: A tree of tensors (N, …). One tensor of uint8 are images in bytes, which become float32 / 255
            batch by batch; images are (N, C, H, W).
        targets: (N,) int64 class numbers; (N, …) int64 for a class at each position, ``IGNORED`` where none
            counts; or (N, K) float32 class probabilities. Without classes a tree of tensors (N, …), float32
            for a regression.
        num_classes: Number of classes K, or None if targets are no classes.
        class_names: One name a class, or empty.
        rows: (M,) int64: which of the N are its samples; None: all. So two parts share one memory.

    Raises:
        DataError: The tensors do not fit this description.
    """

    inputs: Tree
    targets: Tree
    num_classes: int | None
    class_names: tuple[str, ...] = ()
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        for what in ("inputs", "targets"):
            try:
                tree = to_tree(getattr(self, what), what)
            except TreeError as error:
                raise DataError(f"{error}") from error
            object.__setattr__(self, what, tree)
            for path, tensor in named_tensors(tree, what):
                check_plain(path, tensor)
                if tensor.requires_grad or tensor.device.type != "cpu":
                    raise DataError(
                        f"{path} lie on {tensor.device}, or have a gradient; give .detach().cpu() of them"
                    )
        if not self.is_read:
            _check_inputs(self.inputs)
            _check_lengths(self.inputs, self.targets)
        _check_targets(self.targets, self.num_classes)
        if self.class_names and len(self.class_names) != self.num_classes:
            raise DataError(f"there are {len(self.class_names)} class names, but {self.num_classes} classes")
        if self.rows is not None:
            _check_rows(self.rows, self.stored_rows)

    def __len__(self) -> int:
        return self.stored_rows if self.rows is None else len(self.rows)

    @property
    def stored_rows(self) -> int:
        """N: how many rows the tensors have, whichever of them are its samples."""
        return tensors_of(self.inputs)[0].shape[0]

    @property
    def is_read(self) -> bool:
        """Whether its samples are read as they are asked for, and ``inputs`` and ``targets`` are but some."""
        return False

    @property
    def is_stream(self) -> bool:
        """Whether nobody knows how many samples there are, and they come in one order."""
        return False

    @property
    def varies(self) -> bool:
        """Whether sizes of a batch may differ from those of the next."""
        return self.is_read

    @property
    def in_bytes(self) -> bool:
        """Whether the inputs are images in bytes."""
        return isinstance(self.inputs, Tensor) and self.inputs.dtype == torch.uint8

    @property
    def at_positions(self) -> bool:
        """Whether targets are a class at each position of a sample."""
        targets = self.targets
        return self.num_classes is not None and targets.dim() > 1 and not targets.is_floating_point()

    def rows_at(self, places: Tensor) -> Tensor:
        """Return which rows of ``inputs`` and ``targets`` lie at ``places`` among the samples; int64 both."""
        return places if self.rows is None else self.rows[places]

    def arranged(self, places: Tensor, batch_size: int, seed: int, epoch: int) -> Tensor:
        """Return the places of the samples of an epoch, (N,) int64, with those of a batch side by side.

        Args:
            places: As they were drawn.
            batch_size: Samples of a batch.
            seed: The job's.
            epoch: Passes before it.
        """
        del batch_size, seed, epoch
        return places

    def samples_targets(self) -> Tree:
        """Return the targets of the samples alone."""
        rows = self.rows
        return self.targets if rows is None else map_tensors(lambda tensor: tensor[rows], self.targets)

    def input_range(self) -> tuple[float, float] | None:
        """Return the least and the largest number of a batch's inputs; of bytes, those that there can be.

        None if they are not one tensor.
        """
        if not isinstance(self.inputs, Tensor):
            return None
        if self.in_bytes:
            return 0.0, 1.0
        low, high = self.inputs.aminmax()
        return low.item(), high.item()

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Yield all samples in their order, images as float32."""
        parts = torch.arange(len(self)).split(batch_size)  # type: ignore[no-untyped-call]
        for batch, _ in self.read(((0, NO_EPOCH, 0, self.rows_at(part)) for part in parts), 0):
            yield batch

    def read(
        self, places: Iterable[BatchPlace], seed: int, *, as_stored: bool = False
    ) -> Iterator[tuple[Batch, BatchPlace]]:
        """Yield the batch at each place, in order.

        Args:
            places: Asked for as they are needed; where others read the samples, some of them ahead.
            seed: The job's, from which follows what the user's own reading draws.
            as_stored: Leave bytes for whoever takes them to make numbers of.
        """
        del seed
        take = self.batch if self.in_bytes and not as_stored else self.stored
        for place in places:
            yield take(place[3], None), place

    def batch(self, indices: Tensor, spares: BufferPool | None = None) -> Batch:
        """Copy the samples at ``indices``, (B,) int64, into a batch, images as float32.

        Args:
            indices: Which rows, as ``rows_at`` gives them.
            spares: Where their memory comes from; new memory by default.
        """
        return in_numbers(self.stored(indices, spares), spares or BufferPool())

    def stored(self, indices: Tensor, spares: BufferPool | None = None) -> Batch:
        """Return what ``batch`` does, images of bytes as those beside one tensor of targets."""
        inputs, targets = self.inputs, self.targets
        if type(inputs) in _TREES or type(targets) in _TREES:
            return self._of_trees(indices, spares)
        if spares is None:
            taken = inputs.index_select(0, indices)
        else:
            taken = spares.take((len(indices), *inputs.shape[1:]), inputs.dtype)
            torch.index_select(inputs, 0, indices, out=taken)
        kind = ByteBatch if taken.dtype == torch.uint8 else Batch
        return kind(taken, targets.index_select(0, indices), indices, self.num_classes)

    def _of_trees(self, indices: Tensor, spares: BufferPool | None) -> Batch:
        inputs, targets = (
            map_tensors(lambda tensor: tensor.index_select(0, indices), tree)
            for tree in (self.inputs, self.targets)
        )
        batch = (ByteBatch if self.in_bytes else Batch)(inputs, targets, indices, self.num_classes)
        # As bytes go only batches of one tensor each.
        return in_numbers(batch, spares or BufferPool())


@dataclass(frozen=True, slots=True)
class Data:
    """Training, validation and test samples.

    Normalisation is applied to batches after augmentation, on the model's device.

    Attributes:
        train: Trained on.
        test: Never trained on, and looked at once, at the end; None: there are none.
        mean: Per channel, in units of a batch's inputs ([0, 1] for uint8 images); None: no normalisation.
        std: Per channel, > 0; None exactly when ``mean`` is.
        notes: What the user should know of how they were read, as sentences.
        validation: Never trained on, and what a run is judged by while it goes on; None: that is ``test``.
        held_out: Share of the training samples that was held out for ``validation``; 0 if none was.
        preprocessing: How a builtin reader made them of files; None where that is not known.
        values: Name of an input of whole numbers to how many values it can take, one or one a column, where
            the reader knows.

    Raises:
        DataError: The parts are not of one kind, the normalisation does not fit them, or there is nothing
            to judge by.
    """

    train: Dataset
    test: Dataset | None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()
    validation: Dataset | None = None
    held_out: float = 0.0
    preprocessing: Preprocessing | None = None
    values: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.validation is None and self.test is None:
            raise DataError("there are neither validation nor test data; give one of them")
        for part, dataset in self.parts().items():
            _check_alike(part, self.train, dataset)
        _check_normalisation(self.mean, self.std, self.train.inputs)

    @property
    def judged_by(self) -> str:
        """The part that a run is judged by while it goes on: ``"validation"``, or ``"test"`` without one."""
        return "test" if self.validation is None else "validation"

    @property
    def judging(self) -> Dataset:
        """That part."""
        return next(part for part in (self.validation, self.test) if part is not None)

    def parts(self) -> dict[str, Dataset]:
        """Return those that there are, by name: ``train``, ``validation``, ``test``."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in found.items() if part is not None}


class Normalise:
    """Scale inputs by the data's mean and standard deviation; does nothing if there are none.

    Args:
        data: Whose ``mean`` and ``std`` to use.
        device: Where the inputs will be.
    """

    def __init__(self, data: Data, device: torch.device) -> None:
        self._mean: Tensor | None = None
        if data.mean is not None and data.std is not None:
            # Of one tensor, as ``Data`` has seen to.
            per_channel = (1, -1) + (1,) * (data.train.inputs.dim() - 2)
            self._mean = torch.tensor(data.mean, device=device).view(per_channel)
            self._std = torch.tensor(data.std, device=device).view(per_channel)

    def __call__(self, inputs: Tree) -> Tree:
        """Return ``(inputs - mean) / std`` for (B, C, …), in the inputs' dtype; a tree as it is."""
        if self._mean is None:
            return inputs
        return (inputs - self._mean) / self._std


def order_generator(seed: int, epoch: int) -> torch.Generator:
    """Return what the samples of an epoch are drawn with."""
    return torch.Generator().manual_seed(derive_seed(seed, "order", epoch))


def epoch_order(samples: int, seed: int, epoch: int) -> Tensor:
    """Return the order of the samples in one epoch, (N,) int64; it depends on nothing but the arguments."""
    return torch.randperm(samples, generator=order_generator(seed, epoch))


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run: which batches belong to which step.

    An epoch has ceil(N / batch_size) batches and ceil(batches / grad_accum_steps)
    steps: the last batch of an epoch may be smaller, and its last step may have
    fewer batches.

    Attributes:
        samples: N, size of the training data.
        batch_size: Samples of a batch.
        grad_accum_steps: Batches of a step.
        order: From N, the job's seed and the epoch to the places of its samples, (N,) int64.
    """

    samples: int
    batch_size: int
    grad_accum_steps: int = 1
    order: Callable[[int, int, int], Tensor] = epoch_order

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the training data."""
        return -(-self.samples // (self.batch_size * self.grad_accum_steps))

    def epoch(self, step: int) -> int:
        """Return the passes that are finished after ``step`` steps."""
        return step // self.steps_per_epoch

    def sizes(self, step: int) -> list[int]:
        """Return the number of samples in each batch of ``step``."""
        per_step = self.batch_size * self.grad_accum_steps
        left = self.samples - step % self.steps_per_epoch * per_step
        if left >= per_step:
            return [self.batch_size] * self.grad_accum_steps
        whole, rest = divmod(left, self.batch_size)
        return [self.batch_size] * whole + ([rest] if rest else [])


def batches(
    dataset: Dataset,
    plan: Plan,
    seed: int,
    *,
    first_step: int,
    steps_total: int,
    lr_factor: Callable[[int], float],
    as_stored: bool = False,
) -> Iterator[tuple[Batch, StepInfo]]:
    """Yield the batches of the steps from ``first_step`` on, each with its counters.

    A run that is resumed in the middle of an epoch gets the rest of the same order.

    Args:
        dataset: What to draw from.
        plan: Which samples make which step.
        seed: The job's.
        first_step: Steps done already.
        steps_total: Steps of the whole run.
        lr_factor: Step to the schedule's factor.
        as_stored: Leave bytes for whoever takes them to make numbers of.
    """
    places = _places(dataset, plan, seed, first_step, steps_total)
    if dataset.is_read:
        for batch, (step, epoch, micro_batch, _) in dataset.read(places, seed, as_stored=as_stored):
            yield batch, make_step(step, epoch, micro_batch, steps_total, lr_factor(step))
        return
    take = dataset.batch if dataset.in_bytes and not as_stored else dataset.stored
    sample_bytes = sum(tensor[0].numel() for tensor in tensors_of(dataset.inputs)) * torch.float32.itemsize
    spares = BufferPool() if plan.batch_size * sample_bytes >= LARGE_BYTES else None
    for step, epoch, micro_batch, rows in places:
        yield take(rows, spares), make_step(step, epoch, micro_batch, steps_total, lr_factor(step))


def _places(
    dataset: Dataset, plan: Plan, seed: int, first_step: int, steps_total: int
) -> Iterator[BatchPlace]:
    of_epoch = -1
    parts: Iterator[Tensor] = iter(())
    steps_per_epoch, per_step = plan.steps_per_epoch, plan.grad_accum_steps
    for step in range(first_step, steps_total):
        epoch, in_epoch = divmod(step, steps_per_epoch)
        if epoch != of_epoch:
            of_epoch, parts = epoch, _parts(dataset, plan, seed, epoch, in_epoch)
        # The last step of an epoch has the parts that are left.
        for micro_batch, indices in enumerate(itertools.islice(parts, per_step)):
            yield step, epoch, micro_batch, indices


def _parts(dataset: Dataset, plan: Plan, seed: int, epoch: int, first_step: int) -> Iterator[Tensor]:
    """Yield the rows of each batch in one epoch, from that epoch's ``first_step`` on."""
    first = first_step * plan.batch_size * plan.grad_accum_steps
    if dataset.is_stream:
        for begin in range(first, plan.samples, plan.batch_size):
            yield torch.arange(begin, min(begin + plan.batch_size, plan.samples))
        return
    places = dataset.arranged(plan.order(plan.samples, seed, epoch), plan.batch_size, seed, epoch)
    order = dataset.rows_at(places)
    at_once = _CUT_AT_ONCE * plan.batch_size
    for begin in range(first, plan.samples, at_once):
        # A copy, since views would keep the whole order alive for as long as any batch is.
        window = order[begin : begin + at_once].clone()
        yield from window.split(plan.batch_size)  # type: ignore[no-untyped-call]


def check_plain(what: str, tensor: Tensor) -> None:
    """Check that the numbers of ``tensor`` lie side by side in memory.

    Raises:
        DataError: They do not; the message names the dtype, and what to do.
    """
    faults = (
        (tensor.is_nested, "rows of different lengths; pad them to one shape"),
        (tensor.is_meta, "on the device meta, which holds no numbers; make them on the cpu"),
        (tensor.is_quantized, "quantized; give .dequantize() of them"),
        (not tensor.is_nested and tensor.layout != torch.strided, "sparse; give .to_dense() of them"),
    )
    for is_so, remedy in faults:
        if is_so:
            raise DataError(f"{what} of dtype {tensor.dtype} are {remedy}")


def _check_inputs(inputs: Tree) -> None:
    for path, tensor in named_tensors(inputs, "inputs"):
        if tensor.dim() == 0 or len(tensor) == 0:
            raise DataError("the data are empty; at least one sample is needed")
        if tensor.dtype == torch.float64:
            raise DataError(
                f"{path} are of dtype {tensor.dtype}; give .float() of them, as models compute in"
            )


def _check_targets(targets: Tree, num_classes: int | None) -> None:
    for path, tensor in named_tensors(targets, "targets"):
        if tensor.dim() == 0:
            raise DataError(f"{path} are a single number; expected one for each sample")
        if num_classes is None and tensor.dtype == torch.float64:
            raise DataError(
                f"{path} are of dtype {tensor.dtype}; give .float() of them, as models compute in"
            )
    if num_classes is None:
        return
    if not isinstance(targets, Tensor):
        raise DataError(
            f"targets are {describe_tree(targets)}; with num_classes they are one tensor of class "
            "numbers. Leave num_classes out where loss and metric are your own"
        )
    if targets.dtype == torch.int64:
        counted = targets if targets.dim() == 1 else targets[targets != IGNORED]
        low, high = (int(bound) for bound in counted.aminmax()) if counted.numel() else (0, 0)
        if low < 0 or high >= num_classes:
            ignored = "" if targets.dim() == 1 else f", or are {IGNORED} where none counts"
            raise DataError(
                f"targets reach from {low} to {high}; with {num_classes} classes they lie in "
                f"0 … {num_classes - 1}{ignored}"
            )
    elif targets.dtype != torch.float32 or tuple(targets.shape[1:]) != (num_classes,):
        raise DataError(
            f"targets are {targets.dtype} of shape {tuple(targets.shape)}; expected (N,) torch.int64 class "
            f"numbers, or (N, {num_classes}) torch.float32 class probabilities"
        )


def _check_lengths(inputs: Tree, targets: Tree) -> None:
    named = [*named_tensors(inputs, "inputs"), *named_tensors(targets, "targets")]
    (first, expected), *others = [(path, len(tensor)) for path, tensor in named]
    for path, count in others:
        if count != expected:
            raise DataError(f"there are {expected} {first}, but {count} {path}")


def _check_rows(rows: Tensor, count: int) -> None:
    if rows.dtype != torch.int64 or rows.dim() != 1 or len(rows) == 0:
        raise DataError(f"rows are {rows.dtype} of shape {tuple(rows.shape)}; expected (M,) torch.int64")
    low, high = (int(bound) for bound in rows.aminmax())
    if low < 0 or high >= count:
        raise DataError(f"rows reach from {low} to {high}, but there are {count} inputs")


def _check_alike(part: str, train: Dataset, other: Dataset) -> None:
    # Of samples that are read sizes may differ, from one to the next as from part to part.
    form = _dtypes if train.is_read or other.is_read else _sample_form
    for what, a, b in (
        ("inputs of shape", form(train.inputs), form(other.inputs)),
        ("targets of shape", form(train.targets), form(other.targets)),
        ("a number of classes of", train.num_classes, other.num_classes),
    ):
        if a != b:
            raise DataError(f"the training data have {what} {a}, the {part} data {b}; they must agree")


def _dtypes(tree: Tree) -> Tree:
    return [(path, tensor.dtype) for path, tensor in named_tensors(tree, "") if "[" not in path]


def _sample_form(tree: Tree) -> Tree:
    """Return the shapes of one sample, in the form of the tree."""
    return map_tensors(lambda tensor: tuple(tensor.shape[1:]), tree)


def _check_normalisation(mean: tuple[float, ...] | None, std: tuple[float, ...] | None, inputs: Tree) -> None:
    if (mean is None) != (std is None):
        raise DataError("give both mean and std, or neither")
    if mean is None or std is None:
        return
    if not isinstance(inputs, Tensor):
        raise DataError(
            f"mean and std are of one tensor of inputs, and the data have {describe_tree(inputs)}"
        )
    shape = tuple(inputs.shape)
    if len(shape) < 2 or not len(mean) == len(std) == shape[1]:  # noqa: PLR2004 - (N, C, …)
        raise DataError(
            f"mean and std have {len(mean)} and {len(std)} numbers; inputs of shape {shape} "
            f"need {shape[1] if len(shape) > 1 else 'no'} of each"
        )
    if not all(value > 0 for value in std):
        raise DataError(f"std is {std}; every number must be above 0")
