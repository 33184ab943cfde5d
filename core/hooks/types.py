"""Types of what hooks receive and return.

Tensors that a hook receives are read-only. A plugin returns new values, or
``None`` to leave things as they are. In the sandbox the kernel refuses an edit in
place. A trusted plugin is given the run's own tensors, and nothing but its care
keeps it from editing them: that is what trusted means.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .errors import shorten
from .trees import Tree

#: Makes an uninitialised tensor: ``allocate(shape, dtype)``. The engine takes one so
#: that what plugins read can lie in shared memory without the engine knowing.
Allocate = Callable[[tuple[int, ...], torch.dtype], Tensor]

ALIGNMENT_BYTES = 64
#: Class of a position that counts for nothing, as torch's cross entropy has it.
IGNORED = -100
_SHOWN_CHARACTERS = 60
#: What an evaluation came to, by name.
Metrics = Mapping[str, float]


def derive_seed(*parts: int | str) -> int:
    """Hash ``parts`` to a seed of 63 bits, the same on every machine and Python."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@functools.lru_cache(maxsize=1024)
def _plugin_seed(job_seed: int, plugin: str) -> int:
    return derive_seed(job_seed, plugin)


@dataclass(frozen=True, slots=True)
class StepInfo:
    """Where in the run a hook is called; counters, and the randomness that belongs there.

    Attributes:
        global_step: Optimizer steps finished before this one, from 0.
        epoch: Passes over the training data finished before this one, from 0.
        micro_batch: Index of the batch within the step, from 0; > 0 only with gradient accumulation.
        steps_total: Optimizer steps that the job asks for.
        lr_factor: What the schedule multiplies the optimizer's own learning rate by, >= 0.
        pass_index: 0, then 1, 2 … for the further passes that an optimizer asked for.
        seed: Derived from the job's seed and the plugin's name.
        scalars: What ``log`` has collected in this call.
    """

    global_step: int
    epoch: int = 0
    micro_batch: int = 0
    steps_total: int = 0
    lr_factor: float = 1.0
    pass_index: int = 0
    seed: int = 0
    scalars: dict[str, float] = field(default_factory=dict, compare=False, repr=False)

    def for_plugin(self, job_seed: int, plugin: str) -> StepInfo:
        """Return this step as one plugin sees it: its own seed, nothing logged."""
        return make_step(
            self.global_step,
            self.epoch,
            self.micro_batch,
            self.steps_total,
            self.lr_factor,
            self.pass_index,
            _plugin_seed(job_seed, plugin),
        )

    @property
    def call_seed(self) -> int:
        """Seed of this call: (job seed, plugin, step, batch), never the worker."""
        return derive_seed(self.seed, self.global_step, self.micro_batch, self.pass_index)

    def generator(self) -> torch.Generator:
        """Return a CPU generator that gives the same numbers in any worker, isolated or not."""
        return torch.Generator().manual_seed(self.call_seed)

    def sample_seeds(self, indices: Tensor) -> list[int]:
        """Return one seed for each sample; ``indices`` are ``Batch.indices``, shape (B,)."""
        call_seed = self.call_seed
        return [derive_seed(call_seed, index) for index in indices.tolist()]

    def log(self, name: str, value: float) -> None:
        """Record the scalar ``value``; it reaches ``metrics.jsonl`` as ``<plugin>/<name>``."""
        try:
            self.scalars[name] = float(value)
        except (OverflowError, TypeError, ValueError) as error:
            kind, shown = type(value).__name__, shorten(repr(value), _SHOWN_CHARACTERS)
            raise ValueError(f"step.log({name!r}, …) takes a number, not {shown} ({kind}): {error}") from None

    def ask(self, what: str) -> None:
        """Ask that the run ``"stop"`` after this step, or ``"evaluate"``; for monitors that the job lets."""
        self.log(f"ask/{what}", 1.0)


#: What sets each field, in order.
_SET = [StepInfo.__dict__[name].__set__ for name in StepInfo.__slots__]


def make_step(
    global_step: int,
    epoch: int,
    micro_batch: int,
    steps_total: int,
    lr_factor: float,
    pass_index: int = 0,
    seed: int = 0,
) -> StepInfo:
    """Return what ``StepInfo`` does, in half the time; for what is done at every batch and call."""
    step: StepInfo = object.__new__(StepInfo)
    a, b, c, d, e, f, g, h = _SET
    a(step, global_step)
    b(step, epoch)
    c(step, micro_batch)
    d(step, steps_total)
    e(step, lr_factor)
    f(step, pass_index)
    g(step, seed)
    h(step, {})
    return step


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one forward pass.

    Attributes:
        inputs: A tree, of most data one tensor; images are (B, C, H, W) with values in [0, 1], before
            normalisation.
        targets: (B,) int64 class numbers, or (B, …) of each position, -100 where none counts; or (B, K)
            float32 class probabilities when a plugin mixed labels; without classes any tree, of a
            regression float32 (B, …).
        indices: (B,) int64, position of each sample in the training data.
        num_classes: K, or None without classes.
    """

    inputs: Tree
    targets: Tree
    indices: Tensor
    num_classes: int | None = None

    def __len__(self) -> int:
        return self.indices.shape[0]

    def with_(self, *, inputs: Tree = None, targets: Tree = None) -> Batch:
        """Return this batch with other inputs, targets or both."""
        return replace(
            self,
            inputs=self.inputs if inputs is None else inputs,
            targets=self.targets if targets is None else targets,
        )

    def soft_targets(self) -> Tensor:
        """Return class probabilities, (B, K) float32.

        Raises:
            ValueError: There are no classes to mix, or one for each position of a sample.
        """
        targets = self.targets
        if self.num_classes is None or not isinstance(targets, Tensor):
            raise ValueError(
                "a regression has no class probabilities; use an augmentation that keeps targets"
            )
        if targets.is_floating_point():
            return targets
        if targets.dim() > 1:
            raise ValueError("samples have a class for each position; use an augmentation that keeps targets")
        return torch.nn.functional.one_hot(targets, self.num_classes).to(torch.float32)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype, shape and place of one tensor inside the buffer of a ``TensorMap``."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset_bytes: int
    nbytes: int


class TensorMap(Mapping[str, Tensor]):
    """Named tensors that lie side by side in one byte buffer.

    One buffer makes a copy, a norm or a check one pass over memory, and lets a
    process map all parameters at once. Gaps left by alignment are zero.

    Args:
        specs: What lies where; offsets are multiples of 64 bytes.
        buffer: (N,) uint8, at least as long as the last tensor's end.
    """

    __slots__ = ("_extent", "_flat", "_tensors", "buffer", "specs")

    def __init__(self, specs: Sequence[TensorSpec], buffer: Tensor) -> None:
        self.specs = tuple(specs)
        self.buffer = buffer
        self._extent = _extent(self.specs)
        self._flat: Tensor | None = None
        self._tensors = {
            spec.name: buffer[spec.offset_bytes : spec.offset_bytes + spec.nbytes]
            .view(spec.dtype)
            .view(spec.shape)
            for spec in self.specs
        }

    @classmethod
    def like(cls, tensors: Mapping[str, Tensor], allocate: Allocate | None = None) -> TensorMap:
        """Lay out tensors of the names, dtypes and shapes of ``tensors``, all zero.

        Args:
            tensors: Examples; their values are not copied.
            allocate: Where the buffer comes from; ordinary memory by default.
        """
        specs, offset = [], 0
        for name, tensor in tensors.items():
            nbytes = tensor.numel() * tensor.element_size()
            specs.append(TensorSpec(name, tensor.dtype, tuple(tensor.shape), offset, nbytes))
            offset += -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        shape = (max(offset, ALIGNMENT_BYTES),)
        buffer = torch.empty(shape, dtype=torch.uint8) if allocate is None else allocate(shape, torch.uint8)
        return cls(specs, buffer.zero_())

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    # The four that a mapping has by itself call the above for each name, which a step feels.

    def get(self, name: str, default: Any = None) -> Any:
        """Return the tensor of this name, or ``default``."""
        return self._tensors.get(name, default)

    def keys(self) -> KeysView[str]:
        """Return a view of the names."""
        return self._tensors.keys()

    def values(self) -> ValuesView[Tensor]:
        """Return a view of the tensors."""
        return self._tensors.values()

    def items(self) -> ItemsView[str, Tensor]:
        """Return a view of both."""
        return self._tensors.items()

    def __repr__(self) -> str:
        return f"TensorMap({len(self)} tensors, {self.buffer.numel()} bytes)"

    def select(self, names: Sequence[str]) -> TensorMap:
        """Return a view of some of the tensors, over the same buffer."""
        wanted = set(names)
        return TensorMap([spec for spec in self.specs if spec.name in wanted], self.buffer)

    def clone(self) -> TensorMap:
        """Return a writable copy."""
        return TensorMap(self.specs, self.buffer.clone())

    def flat(self) -> Tensor | None:
        """Return all tensors as one 1-D tensor, gaps of zeros included; None if dtypes differ."""
        if self._extent is None:
            return None
        # First, as a buffer may be filled when it is asked for.
        buffer = self.buffer
        if self._flat is None:
            dtype, end = self._extent
            self._flat = buffer[:end].view(dtype)
        return self._flat


def _extent(specs: Sequence[TensorSpec]) -> tuple[torch.dtype, int] | None:
    """Return the dtype of all tensors and where the last one ends, in bytes; None if dtypes differ."""
    dtypes = {spec.dtype for spec in specs}
    if len(dtypes) != 1:
        return None
    return dtypes.pop(), max(spec.offset_bytes + spec.nbytes for spec in specs)


#: Parameter name to value. A plugin returns any mapping of the same names, shapes and dtypes.
Parameters = TensorMap
#: Parameter name to gradient; parameters that got no gradient in this step are absent.
Gradients = TensorMap


@dataclass(frozen=True, slots=True)
class LossTerm:
    """A term to add to the loss.

    No graph crosses a process: the term is its value, and its gradient with
    respect to the outputs; the engine joins both to the graph.

    Attributes:
        value: The term, in units of the loss.
        gradient: d value / d outputs; form, shapes and dtypes of the outputs.
    """

    value: float
    gradient: Tree


@dataclass(frozen=True, slots=True)
class LossScale:
    """Multiply the loss so far by ``factor``, finite."""

    factor: float


@dataclass(frozen=True, slots=True)
class AnotherPass:
    """Set ``parameters``, run forward and backward on the same batch, and call ``backward`` again.

    Optimizers such as SAM and L-BFGS need the gradient at a second point. The
    next call's ``StepInfo.pass_index`` is one higher.
    """

    parameters: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values between edges.

    Attributes:
        counts: N numbers, >= 0.
        edges: N + 1 finite numbers, increasing.
    """

    counts: Sequence[float]
    edges: Sequence[float]


@dataclass(frozen=True, slots=True)
class Report:
    """What a monitor found; names may hold letters, digits and ``._-/``.

    What goes beyond a bound is a fault of the plugin: writing and drawing all this is the trainer's work.

    Attributes:
        scalars: Name to number, at most 4096; numbers that are not finite are kept as such.
        histograms: Name to histogram, at most 1024, of at most 512 bins each; all their counts and edges
            together are at most 42,000 numbers, as 325 histograms of 64 bins have.
        images: Name to picture, at most 64, uint8 (H, W) or (H, W, 3), 1 to 1024 pixels a side; all
            together have at most 3 MiB of pixels.
    """

    scalars: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    images: Mapping[str, Tensor] = field(default_factory=dict)


def passthrough(self: object, *args: object, **kwargs: object) -> None:
    """Stand for a method that has nothing to do: ``backward = passthrough``. It is never called."""
