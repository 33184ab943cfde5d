"""The plugins of a loop that is not ours, as it calls them: batches, loss, step, state.

The order of a step is that of ``engine/step.py``, whose pieces this calls as the loop comes to them.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..engine.buffers import copy_buffers, restore_buffers
from ..engine.step import (
    Begun,
    Pass,
    Update,
    begin_step,
    change_loss,
    show_loss,
    show_update,
    tell_losses,
    update_weights,
)
from ..hooks.errors import (
    CheckpointError,
    DataError,
    JobError,
    PluginError,
    RingfenceError,
)
from ..hooks.roles.optimizer import OPTIMIZER
from ..hooks.types import Batch, Gradients, StepInfo, make_step
from ..plugins.moments import Firing
from ..reproducibility.generator_states import TorchRng
from ..run.load_plugins import Planned
from ..tensors import pytree
from ..tensors.buffer_pool import BufferPool
from ..tensors.byte_batch import in_numbers
from .host_optimizer import NONE_REACHED, HostOptimizer, reaches_none
from .loop_batches import AugmentedLoader, BatchForm
from .loop_faults import Attempts, Moments
from .loop_report import HostReport, PluginCost, ReportKeeper

_Item = TypeVar("_Item")
_SCHEMA = 1
_CLOSED = "the plugin host is closed; use it inside its `with` block"


class LoopError(RingfenceError):
    """The loop calls its plugin host in an order that makes no sense."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a loop goes; see ``plugin_host``."""

    form: BatchForm
    seed: int = 0
    grad_accum_steps: int = 1
    steps_total: int = 0
    schedule: Callable[[int], float] | None = None
    save_every: int = 1

    def __post_init__(self) -> None:
        if self.grad_accum_steps < 1:
            raise JobError(f"grad_accum_steps is {self.grad_accum_steps}; it must be at least 1")
        if self.save_every < 0:
            raise JobError(f"save_every is {self.save_every}; it must be at least 0, which saves nothing")

    def factor(self, step: int) -> float:
        """Return the schedule's factor."""
        return 1.0 if self.schedule is None else self.schedule(step)


@dataclass(slots=True)
class _Waiting(Generic[_Item]):
    """A batch that was fetched and is with the plugins, or with the loop and not begun."""

    item: _Item
    batch: Any
    info: StepInfo


@dataclass(slots=True)
class _Step:
    """The step that the loop is in.

    Attributes:
        begun: What its end needs.
        batches: As plugins left them, with their counters.
        losses: Mean over each batch, with the terms of plugins, shape ().
        sample_losses: Loss of each sample of each batch, if a plugin learns from it.
        pass_index: Which pass the loop is in.
    """

    begun: Begun
    batches: list[tuple[Any, StepInfo]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    sample_losses: list[Tensor] = field(default_factory=list)
    pass_index: int = 0


class LoopHost:
    """The plugins of a loop; ``plugin_host`` makes one.

    Args:
        planned: The plugins.
        update: What they work on.
        settings: How the loop goes.
        keeper: Of what they report.
    """

    def __init__(
        self, planned: Sequence[Planned], update: Update, settings: Settings, keeper: ReportKeeper
    ) -> None:
        self._update, self._settings, self._keeper = update, settings, keeper
        self._hooks, self._weights = update.hooks, update.weights
        self._attempts = Attempts(update.hooks, planned, settings.save_every, lambda: self._global_step)
        self._optimizer: HostOptimizer | None = None
        self._global_step = self._epochs = 0
        self._fetched: deque[_Waiting[Any]] = deque()
        self._handed_out: deque[tuple[Any, StepInfo]] = deque()
        self._pass: Iterator[Any] | None = None
        self._step: _Step | None = None
        self._kept = self._weights.values.clone() if self._changes_in_place() else None
        self._begins = True
        self._told: set[str] = set()
        self._first_step, self._ran_a_pass = 0, False

    # what a loop calls

    @property
    def global_step(self) -> int:
        """Steps finished."""
        return self._global_step

    @property
    def has_optimizer(self) -> bool:
        """Whether a plugin is the optimizer, or one of torch was given."""
        return self._update.optimizer is not None or bool(self._hooks.at.update.methods)

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self._update.model

    @property
    def optimizer(self) -> HostOptimizer:
        """An optimizer for frameworks that want one: its ``step`` is that of the host.

        Its ``lr`` is that of the torch optimizer; where a plugin is the optimizer, it is a factor of the
        plugin's own rate, 1 at first. Schedulers of torch may be put on it, and its ``state_dict`` holds
        the plugins' states.
        """
        if self._optimizer is None:
            again = self._settings.grad_accum_steps == 1
            self._optimizer = HostOptimizer(self, self._update.optimizer, runs_again=again)
        return self._optimizer

    def augment(self, loader: Iterable[_Item]) -> AugmentedLoader[_Item]:
        """Return a loader whose batches the augment plugins have changed, ahead of the loop.

        A step begins as the loop is given its first batch.

        Args:
            loader: Yields ``(inputs, targets)``, dicts that hold both, or ``Batch``; of the form in which a
                batch comes it is given out. Images in bytes come out as float32 in [0, 1].
        """
        return AugmentedLoader(self, loader)

    def loss(self, batch: object, outputs: Tensor, loss: Tensor, losses: Tensor | None = None) -> Tensor:
        """Return the loss with the terms of plugins, joined to the graph; monitors look at it.

        To be called once for each batch, between the forward pass and ``backward``.

        Args:
            batch: As the loader gave it.
            outputs: Of the model, on the graph.
            loss: Mean over the batch, shape (); undivided where gradients are accumulated.
            losses: Loss of each sample, (B,); needed only if an augment plugin learns from it.

        Raises:
            LoopError: There is no such batch in this step.
            RunAbortedError: A plugin failed for good.
        """
        self._attempts.check_open()
        if not isinstance(outputs, Tensor):
            raise DataError(
                f"outputs are a {type(outputs).__name__}; plugins are given the tensor that the loss is of"
            )
        at = self._hooks.at
        changed, info = self._batch_of_loss(batch)
        step = self._running_step()
        if at.after_step.methods and step.pass_index == 0:
            step.sample_losses.append(self._sample_losses(losses, changed))
        if at.loss.methods:
            change = functools.partial(change_loss, self._hooks, changed, outputs, loss, info)
            loss = self._attempts.attempt(change, [at.loss])
        if at.after_loss.methods:
            self._attempts.show(lambda: show_loss(self._hooks, changed, outputs, loss, info))
        step.losses.append(loss.detach())
        return loss

    def step(self, closure: Callable[[], object] | None = None) -> None:
        """Hand the gradients to the plugins, then take the optimizer's step; gradients are gone afterwards.

        Args:
            closure: Runs forward and backward over the step's batches again, ``loss`` included, for an
                optimizer that asks for further passes.

        Raises:
            LoopError: ``loss`` was not called, and a plugin needs it.
            RunAbortedError: A plugin failed for good.
        """
        self._attempts.check_open()
        if self._step is None:
            self._begin(self._info(0))
        step = self._running_step()
        self._check_losses(step)
        info = self._with_rate(step.batches[0][1] if step.batches else self._info(0))
        done = self._done(step)
        gradients = self._attempts.attempt(self._updating(step, done, info, closure), self._update_moments())
        if step.begun[0]:
            self._attempts.show(lambda: show_update(self._update, step.begun, info, gradients))
        self._weights.release()
        if self._hooks.at.after_step.methods:
            self._attempts.attempt(lambda: tell_losses(self._hooks, done), [self._hooks.at.after_step])
        self._global_step += 1
        self._step = None
        if self._optimizer is not None:
            self._optimizer.note_step()
        if self._hooks.observers:
            self._attempts.show(self._hooks.poll)
        self._hooks.progressed()

    def report(self) -> HostReport:
        """Return what each plugin has cost, what was logged last, and the faults; waits for monitors."""
        if self._attempts.ended is None:
            self._attempts.show(self._hooks.drain)
        costs = tuple(PluginCost.of(plugin) for plugin in self._hooks.plugins)
        keeper, faults = self._keeper, self._hooks.failures.log.records
        return HostReport(self._global_step, costs, dict(keeper.logged), tuple(faults), tuple(keeper.told))

    def state_dict(self) -> dict[str, Any]:
        """Return what the loop's own checkpoint needs of the plugins, between two steps: plain data, tensors.

        Raises:
            LoopError: The loop is in the middle of a step.
            RunAbortedError: A plugin could not give its state.
        """
        self._attempts.check_open()
        self._check_between_steps("state_dict()")
        at = self._hooks.at
        bound: Moments = [at.batch, at.parameters, at.loss, at.gradients, at.update, at.after_step]
        states = self._attempts.attempt(self._hooks.state_dict, bound)
        return {
            "schema": _SCHEMA,
            "step": self._global_step,
            "epochs": self._epochs,
            "seed": self._settings.seed,
            "plugins": {name: pytree.decode(state) for name, state in states.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Bring plugins and counters back to what ``state_dict`` returned; the model is the loop's.

        Raises:
            CheckpointError: It is no such state, of another seed, or of plugins that are not here.
            LoopError: The loop is in the middle of a step.
            RunAbortedError: A plugin did not take its state.
        """
        self._attempts.check_open()
        self._check_between_steps("load_state_dict()")
        step, epochs, plugins = self._read_state(state)
        states = {name: pytree.encode(value) for name, value in plugins.items()}
        self._attempts.attempt(lambda: self._attempts.saved.adopt(states), [])
        self._global_step, self._epochs = step, epochs
        self._first_step = step
        self._drop_pass()

    # what adapters call

    @property
    def logged(self) -> Mapping[str, float]:
        """The number that was logged or reported last under each name, without waiting for any."""
        return dict(self._keeper.logged)

    def join(self, framework: str, device: torch.device, grad_accum_steps: int, processes: int) -> None:
        """Let a framework begin the batches: it may fetch some ahead.

        Args:
            framework: Its name, for messages.
            device: Where it trains.
            grad_accum_steps: Batches that it takes for a step.
            processes: That train together.

        Raises:
            LoopError: It does not go together with this host.
        """
        self._attempts.check_open()
        own = self._settings.grad_accum_steps
        if processes > 1:
            raise LoopError(f"{framework} trains in {processes} processes; plugin_host works in one")
        if device != self._update.device:
            raise LoopError(
                f"{framework} trains on {device}, and the model lies on {self._update.device}; move it there "
                "before plugin_host, which shows its parameters to plugins where they are"
            )
        if grad_accum_steps != own:
            raise LoopError(
                f"{framework} accumulates the gradients of {grad_accum_steps} batches, and plugin_host those "
                f"of {own}; give it grad_accum_steps={grad_accum_steps}"
            )
        self._begins = False

    def adopt(self, optimizer: torch.optim.Optimizer) -> HostOptimizer:
        """Take the optimizer that a framework has made, and return the one to put in its place.

        Raises:
            LoopError: A plugin is the optimizer, or another one was given.
        """
        if isinstance(optimizer, HostOptimizer):
            return optimizer
        theirs = next((p.spec.name for p in self._hooks.plugins if p.spec.role == OPTIMIZER.name), None)
        if theirs is not None:
            raise LoopError(
                f"the framework has made a {type(optimizer).__name__}, and '{theirs}' is an optimizer too; "
                "have it take host.optimizer"
            )
        if self._update.optimizer not in (None, optimizer):
            raise LoopError(
                f"the framework has made a {type(optimizer).__name__}, and plugin_host was given another "
                "optimizer; leave that out"
            )
        if reaches_none(optimizer, self.model):
            raise LoopError(f"the framework's {type(optimizer).__name__} {NONE_REACHED}")
        self._update.optimizer, self._optimizer = optimizer, None
        return self.optimizer

    def begin_batch(self) -> None:
        """Go on to the batch that was given out next: its step begins with the first.

        Raises:
            LoopError: There is none, or the step before it was not taken.
        """
        self._attempts.check_open()
        if not self._handed_out:
            raise LoopError("the loop goes on to a batch that it was not given by host.augment(loader)")
        batch, info = self._handed_out.popleft()
        self._check_place(info)
        if self._step is None:
            self._begin(info)
        self._running_step().batches.append((batch, info))

    def run_pass(self, loader: Iterable[_Item]) -> Iterator[_Item]:
        """Yield what plugins make of the batches of a loader; one pass at a time."""
        self._attempts.check_open()
        self._ran_a_pass = True
        self._drop_pass()
        if self._step is not None:
            if any(parameter.grad is not None for parameter in self.model.parameters()):
                raise LoopError(
                    f"a new pass over the loader begins in the middle of step {self._global_step}; call "
                    "host.step() once its batches are done"
                )
            self._step.batches.clear()
        batches, length, count = self._numbered(loader), _length(loader), 0
        running = self._pass = self._run_pass(batches)
        try:
            for item in running:
                count += 1
                # Some frameworks never ask for what comes after the last.
                self._epochs += count == length
                if self._begins:
                    self.begin_batch()
                yield item
            self._epochs += length is None
        finally:
            running.close()
            batches.close()
            if self._pass is running:
                self._pass = None
                self._fetched.clear()

    # the stream of batches

    def _run_pass(self, batches: Iterator[_Waiting[_Item]]) -> Generator[_Item, None, None]:
        changes = bool(self._hooks.at.batch.methods)
        stream: Iterator[tuple[Any, StepInfo]] | None = None

        def pull() -> tuple[Any, StepInfo] | None:
            nonlocal stream
            if stream is None:
                # What was fetched and not given out goes through plugins again, with the same random numbers.
                again = [(waiting.batch, waiting.info) for waiting in self._fetched]
                stream = self._hooks.stream(itertools.chain(again, map(self._fetch, batches)))
            try:
                return next(stream, None)
            except PluginError:
                stream = None
                raise

        try:
            while (pulled := self._attempts.attempt(pull, [self._hooks.at.batch])) is not None:
                waiting, (batch, info) = self._fetched.popleft(), pulled
                self._handed_out.append((batch, info))
                yield self._settings.form.write(waiting.item, batch) if changes else waiting.item
        finally:
            if isinstance(stream, Generator):
                stream.close()

    def _fetch(self, waiting: _Waiting[Any]) -> tuple[Any, StepInfo]:
        self._fetched.append(waiting)
        return waiting.batch, waiting.info

    def _numbered(self, loader: Iterable[_Item]) -> Generator[_Waiting[_Item], None, None]:
        first, settings = self._global_step, self._settings
        reads = bool(self._hooks.at.batch.methods)
        for number, item in enumerate(loader):
            step, micro_batch = divmod(number, settings.grad_accum_steps)
            info = self._info(micro_batch, first + step)
            yield _Waiting(item, settings.form.read_from_loader(item, number) if reads else item, info)

    def _drop_pass(self) -> None:
        """Forget a pass that was broken off, and what was fetched ahead of it."""
        self._pass = None
        self._fetched.clear()
        self._handed_out.clear()

    # the step

    def _begin(self, info: StepInfo) -> None:
        if not self.has_optimizer:
            raise LoopError(
                "there is no optimizer: give plugin_host the loop's own with optimizer=…, or a plugin that "
                "is one, as {'optim': {'algorithm': 'adamw', 'lr': 0.001}}"
            )
        self._check_parameters()
        at, info = self._hooks.at.parameters, self._with_rate(info)
        if at.methods:
            self._keep_weights()

        def begin() -> Begun:
            try:
                return begin_step(self._update, info)
            except BaseException:
                self._put_weights_back()
                raise

        self._step = _Step(self._attempts.attempt(begin, [at]))

    def _updating(
        self, step: _Step, done: Pass, info: StepInfo, closure: Callable[[], object] | None
    ) -> Callable[[], Gradients]:
        """Return what updates the weights, and leaves all as it was where it fails."""
        parameters = list(self.model.parameters())
        gradients, losses = [parameter.grad for parameter in parameters], list(step.losses)
        device = self._update.device
        drawn = None if closure is None else (TorchRng.capture(device), copy_buffers(self.model))
        self._keep_weights()

        def again(update: Update, first: Pass, index: int) -> Pass:
            del update
            if closure is None:
                raise LoopError(
                    f"'{self._asker()}' asks for another pass over the batches of step {info.global_step}; "
                    "give host.step() a function that runs forward, host.loss() and backward over them again"
                )
            step.pass_index = index
            step.losses.clear()
            with torch.enable_grad():
                closure()
            return Pass(self._mean_loss(step), first.batches, [])

        def update() -> Gradients:
            try:
                return update_weights(self._update, step.begun, done, info, again)
            except BaseException:
                self._put_weights_back()
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                step.pass_index, step.losses = 0, list(losses)
                if drawn is not None:
                    drawn[0].restore(device)
                    restore_buffers(self.model, drawn[1])
                raise

        return update

    def _keep_weights(self) -> None:
        if self._kept is not None:
            self._kept.buffer.copy_(self._weights.values.buffer)

    def _put_weights_back(self) -> None:
        if self._kept is not None:
            self._weights.write_flat(self._kept)

    def _changes_in_place(self) -> bool:
        """Tell whether a plugin writes to the parameters, which a fault may then leave half written."""
        return any(plugin.spec.role == OPTIMIZER.name for plugin in self._hooks.plugins)

    def _asker(self) -> str:
        method = self._hooks.asked_last
        return "" if method is None else method.plugin.spec.name

    def _batch_of_loss(self, batch: object) -> tuple[Batch, StepInfo]:
        """Return the batch that ``loss`` is called for, as plugins see it, and its counters."""
        position = 0 if self._step is None else len(self._step.losses)
        if self._step is None or position >= len(self._step.batches):
            if self._pass is not None:
                raise LoopError(
                    "host.loss() is called for a batch that the loop was not given, or twice for one; call "
                    "it once for each batch of host.augment(loader)"
                )
            if self._hooks.at.parameters.methods:
                raise LoopError(
                    f"{_names(self._hooks.at.parameters)} changes the parameters before the forward pass; "
                    "have the loop go over host.augment(loader), whose batches begin a step"
                )
            if self._step is None:
                self._begin(self._info(0))
            self._running_step().batches.append((batch, self._info(position)))
        step = self._running_step()
        given, info = step.batches[position]
        if self._hooks.at.loss.methods or self._hooks.at.after_loss.methods:
            given = self._as_batch(given)
            step.batches[position] = given, info
        info = self._with_rate(info)
        return given, replace(info, pass_index=step.pass_index) if step.pass_index else info

    def _as_batch(self, given: object) -> Batch:
        return in_numbers(self._settings.form.read(given), BufferPool())

    def _sample_losses(self, losses: Tensor | None, batch: Batch) -> Tensor:
        if losses is None:
            raise LoopError(
                f"{_names(self._hooks.at.after_step)} learns from the loss of each sample; give it to "
                "host.loss(batch, outputs, loss, losses), of shape (B,)"
            )
        if losses.dim() != 1 or len(losses) != len(self._as_batch(batch)):
            raise DataError(f"losses are of shape {tuple(losses.shape)}; expected one number a sample")
        return losses.detach().float().cpu()

    def _done(self, step: _Step) -> Pass:
        return Pass(self._mean_loss(step), step.batches, step.sample_losses)

    def _mean_loss(self, step: _Step) -> Tensor:
        """Return the mean over the samples of a step; of no meaning if no plugin takes it."""
        if len(step.losses) == 1:
            return step.losses[0]
        if "loss" not in self._hooks.at.update.needs:
            return torch.tensor(math.nan)
        sizes = [len(self._as_batch(batch)) for batch, _ in step.batches]
        parts = [loss / (sum(sizes) / size) for loss, size in zip(step.losses, sizes, strict=True)]
        return functools.reduce(torch.add, parts)

    def _update_moments(self) -> Moments:
        return [self._hooks.at.gradients, self._hooks.at.update]

    def _info(self, micro_batch: int, step: int | None = None) -> StepInfo:
        step, settings = self._global_step if step is None else step, self._settings
        return make_step(step, self._epochs, micro_batch, settings.steps_total, settings.factor(step))

    def _with_rate(self, info: StepInfo) -> StepInfo:
        """Return ``info`` with the factor that a scheduler of torch has come to."""
        rate = 1.0 if self._optimizer is None else self._optimizer.rate
        return info if rate == 1.0 else replace(info, lr_factor=info.lr_factor * rate)

    # what must hold

    def _check_between_steps(self, what: str) -> None:
        if self._step is not None and self._step.batches:
            raise LoopError(
                f"{what} is called in the middle of step {self._global_step}; call it after step()"
            )

    def _check_parameters(self) -> None:
        learning = [name for name, p in self._weights.frozen.items() if p.requires_grad]
        told = (self._weights.displaced(), "was moved or converted"), (learning, "requires a gradient now")
        for names, what in told:
            if names:
                raise LoopError(
                    f"parameter '{names[0]}' {what} since plugin_host was opened: neither plugins nor the "
                    "optimizer would reach it. Do that before, or open a new host with the state of this one"
                )

    def _check_place(self, info: StepInfo) -> None:
        accumulated = self._settings.grad_accum_steps
        batches = "batch" if accumulated == 1 else f"{accumulated} batches"
        begun = self._step is not None and bool(self._step.batches)
        if info.global_step > self._global_step or (begun and info.micro_batch == 0):
            raise LoopError(
                f"the next step begins, and host.step() was not called for step {self._global_step}; call it "
                f"after every {batches}, as grad_accum_steps says"
            )
        if info.global_step < self._global_step or (not begun and info.micro_batch):
            raise LoopError(
                f"host.step() was called after fewer batches than grad_accum_steps says, {accumulated}; "
                "give plugin_host the number that the loop accumulates"
            )

    def _check_losses(self, step: _Step) -> None:
        at = self._hooks.at
        if len(step.losses) >= max(len(step.batches), 1):
            return
        taking: Moments = [at.loss, at.after_step]
        names = [_names(firing) for firing in taking if firing.methods]
        if "loss" in at.update.needs:
            names.append(_names(at.update))
        if names:
            raise LoopError(
                f"{names[0]} is given the loss of each batch; call host.loss(batch, outputs, loss) between "
                "the forward pass and backward"
            )
        if at.after_loss.methods:
            self._tell_once(
                f"{_names(at.after_loss)} sees no forward pass, since the loop never calls "
                "host.loss(batch, outputs, loss)"
            )

    def _tell_once(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._keeper.event(sentence)

    def _running_step(self) -> _Step:
        if self._step is None:
            raise LoopError("no step has begun")
        return self._step

    def _read_state(self, state: Mapping[str, Any]) -> tuple[int, int, Mapping[str, Any]]:
        match state:
            case {"schema": int(schema)} if schema != _SCHEMA:
                raise CheckpointError(
                    f"the plugins' state is of schema {schema}; this ringfence reads {_SCHEMA}"
                )
            case {
                "step": int(step),
                "epochs": int(epochs),
                "seed": int(seed),
                "plugins": Mapping() as plugins,
            }:
                pass
            case _:
                raise CheckpointError("the plugins' state is not what host.state_dict() returned")
        if seed != self._settings.seed:
            raise CheckpointError(
                f"the plugins' state is of seed {seed}, and this host has {self._settings.seed}; give "
                f"plugin_host seed={seed}"
            )
        missing = sorted(plugins.keys() - {plugin.spec.name for plugin in self._hooks.plugins})
        if missing:
            raise CheckpointError(
                f"the plugins' state has that of {', '.join(map(repr, missing))}, which this host has not; "
                "give plugin_host the plugins that it had"
            )
        return step, epochs, plugins

    def close(self) -> None:
        """Let the host be used no more; tell of plugins that the loop has passed by."""
        if self._hooks.at.batch.methods and self._global_step > self._first_step and not self._ran_a_pass:
            self._tell_once(
                f"{_names(self._hooks.at.batch)} was never asked: the loop did not go over "
                "host.augment(loader), so no batch was changed"
            )
        self._attempts.ended = self._attempts.ended or _CLOSED


def _length(loader: Iterable[object]) -> int | None:
    """Return how many batches a loader says that it has; None if it does not."""
    sized: Any = loader
    try:
        return len(sized)
    except (TypeError, NotImplementedError):  # it has no length, or has one only to say so
        return None


def _names(firing: Firing[Any, Any]) -> str:
    return " and ".join(f"'{method.plugin.spec.name}'" for method in firing.methods)
