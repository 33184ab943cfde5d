"""The stand-in for an isolated plugin: the engine cannot tell it from a local one."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from ...hooks.errors import CutOffError, PluginError, PluginMemoryError
from ...hooks.types import Batch, Report, StepInfo, TensorMap
from ...plugins.interface import PluginSpec, PluginUsage, excess_state
from ...plugins.result_checks import Names, ResultError, check_scalars
from ...plugins.result_kinds import ResultKind, kinds_of
from ...tensors import pytree
from ...tensors.tensor_file import TensorFile
from ..policy.layer_status import LayerStatus
from ..transport.messages import (
    Call,
    Done,
    Fetch,
    Large,
    Load,
    MessageError,
    Save,
    Size,
    StepCounters,
    decode,
    from_outbox,
)
from ..transport.shared_memory import Region
from .calls.call_memory import CallMemory
from .calls.channel import Channel, Pending
from .limits.memory_budget import budget_bytes
from .processes.worker_group import SLOTS_PER_WORKER, Services, WorkerGroup, WorkerHandle


@dataclass(frozen=True, slots=True)
class _Form:
    """What all calls of one method have in common.

    Attributes:
        hook: For messages.
        kind: Of its results.
        names: Arguments to send.
    """

    hook: str
    kind: ResultKind
    names: tuple[str, ...]


@dataclass(slots=True, eq=False)
class _Flight:
    """A batch on its way through a worker; ``step`` is the job's, ``own`` the plugin's."""

    worker: WorkerHandle
    slot: CallMemory
    pending: Pending | None
    batch: Batch
    step: StepInfo
    own: StepInfo


@dataclass(frozen=True, slots=True)
class _Posted:
    """A call of a monitor that nobody waits for."""

    pending: Pending
    slot: CallMemory
    method: str
    step: StepInfo


class IsolatedPlugin:
    """A plugin in processes of its own; see ``plugins.interface.Plugin`` for the methods.

    Args:
        spec: What to start.
        services: Zygote, watchdog and memory of the run.
    """

    def __init__(self, spec: PluginSpec, services: Services) -> None:
        self.spec = spec
        budget = budget_bytes(spec.memory_fraction)
        self.usage = PluginUsage(budget_bytes=budget, state_of_bytes=budget)
        self.accepts: Mapping[str, tuple[str, ...]] = {}
        self._stop = services.stop
        self._group = WorkerGroup(spec, self.usage, services)
        self._posted: deque[_Posted] = deque()
        #: Where a state lies that this plugin has saved, for as long as somebody has it.
        self._readable: WeakKeyDictionary[TensorFile, Region] = WeakKeyDictionary()
        self._refused_step = -1
        self._forms: Mapping[str, _Form] = {}
        #: Kept over restarts, as what reads them is.
        self._names = Names()
        self._group.start()
        self._adopt_ready()

    @property
    def layers(self) -> tuple[LayerStatus, ...]:
        """How each layer of its sandbox stands, as verified before its code was loaded."""
        return self._group.layers

    @property
    def keeps_state(self) -> bool:
        """Whether its class has both methods for that, as it said when it was loaded."""
        return self._group.ready is not None and self._group.ready.keeps_state

    @property
    def reads_bytes(self) -> bool:
        """Whether it takes images of bytes as those, as it said when it was loaded."""
        return self._group.ready is not None and self._group.ready.reads_bytes

    @property
    def takes_trees(self) -> bool:
        """Whether it knows batches and outputs that are no tensor each, as it said when it was loaded."""
        return self._group.ready is not None and self._group.ready.takes_trees

    @property
    def one_pass(self) -> bool:
        """False: what a step would be spared is nothing beside its call."""
        return False

    @property
    def is_running(self) -> bool:
        """Whether it has processes."""
        return bool(self._group.workers)

    @property
    def _workers(self) -> list[WorkerHandle]:
        return self._group.workers

    # calls

    def call(
        self, method: str, arguments: Mapping[str, Any], step: StepInfo, into: TensorMap | None = None
    ) -> Any:
        """Run one method in the first worker and return its checked result."""
        worker = self._group.workers[0]
        slot = worker.slots[0]
        pending = self._submit(worker, slot, method, arguments, step, snapshot=False)
        return self._finish(worker, pending, slot, method, arguments, step, into)

    def stream(
        self,
        batches: Iterable[tuple[Batch, StepInfo]],
        *,
        done: Callable[[StepInfo], None],
        failed: Callable[[PluginError], None],
    ) -> Iterator[tuple[Batch, StepInfo]]:
        """Run ``forward`` ahead of the caller, each worker on its own batches."""
        if "forward" not in self.accepts:
            yield from batches
            return
        source = iter(batches)
        flying: deque[_Flight] = deque()
        turns = itertools.cycle(
            [(worker, worker.slots[n]) for n in range(SLOTS_PER_WORKER) for worker in self._workers]
        )
        try:
            while self.usage.state == "running":
                try:
                    self._fill(flying, source, turns)
                    if not flying:
                        return
                    changed = self._collect_result(flying[0])
                except PluginError as error:
                    failed(error)
                    break
                flight = flying.popleft()
                done(flight.own)
                result = flight.batch if changed is None else changed
                try:
                    # Now, not when the next is asked for: a step of the loop is long for an idle worker.
                    self._fill(flying, source, turns)
                except PluginError as error:
                    failed(error)
                    yield result, flight.step
                    break
                yield result, flight.step
            # Disabled: what was under way passes unchanged, and so does all that follows. It is let go
            # of first, since its workers are gone and nothing can be waited for.
            unchanged = [(flight.batch, flight.step) for flight in flying]
            flying.clear()
            yield from unchanged
            yield from source
        finally:
            self._forget(flying)

    def _fill(
        self,
        flying: deque[_Flight],
        source: Iterator[tuple[Batch, StepInfo]],
        turns: Iterator[tuple[WorkerHandle, CallMemory]],
    ) -> None:
        """Send batches until every slot of every worker is taken."""
        while len(flying) < len(self._workers) * SLOTS_PER_WORKER:
            item = next(source, None)
            if item is None:
                return
            worker, slot = next(turns)
            own = item[1].for_plugin(self.spec.job_seed, self.spec.name)
            flight = _Flight(worker, slot, None, *item, own)
            # Listed before it is sent: a batch must not be lost with a worker that refuses it.
            flying.append(flight)
            arguments = {"batch": flight.batch}
            flight.pending = self._submit(worker, slot, "forward", arguments, own, snapshot=False)

    def _collect_result(self, flight: _Flight) -> Any:
        if flight.pending is None:
            raise ValueError("a batch that was never sent has no reply")
        arguments = {"batch": flight.batch}
        return self._finish(flight.worker, flight.pending, flight.slot, "forward", arguments, flight.own)

    def post(self, method: str, arguments: Mapping[str, Any], step: StepInfo) -> bool:
        """Start a call on a copy; refused while a call of an earlier step is unanswered."""
        if step.global_step == self._refused_step:
            return True
        if self._posted and self._posted[0].step.global_step != step.global_step:
            self._refused_step = step.global_step
            return False
        worker = self._workers[0]
        slot = worker.slots[len(self._posted) % SLOTS_PER_WORKER]
        pending = self._submit(worker, slot, method, arguments, step, snapshot=True)
        self._posted.append(_Posted(pending, slot, method, step))
        return True

    def poll(self) -> list[tuple[StepInfo, Any]]:
        """Return posted calls that have been answered, without waiting."""
        finished = []
        channel, deadline_s = self._workers[0].channel, self.spec.deadline_s
        while self._posted and channel.answered(self._posted[0].pending, deadline_s):
            finished.append(self._finish_posted())
        return finished

    def drain(self) -> list[tuple[StepInfo, Any]]:
        """Wait for posted calls."""
        self._refused_step = -1
        finished = []
        while self._posted:
            finished.append(self._finish_posted())
        return finished

    # state

    def state_dict(self) -> TensorFile | None:
        """Return the first worker's state, in memory of the host's own."""
        if not self.keeps_state:
            return None
        worker, hook = self._workers[0], f"{self.spec.role}.state_dict"
        channel = worker.channel
        channel.begin(self.spec.deadline_s, hook)
        pending = channel.ask(Save(seq := channel.next_seq()), seq, hook=hook)
        size = channel.wait(pending, self.spec.deadline_s)
        if not isinstance(size, Size):
            raise channel.reject(f"answered 'save' with {type(size).__name__}", pending)
        if size.nbytes == 0:
            return None
        excess = excess_state(size.nbytes, self.usage.state_of_bytes)
        if excess is not None or size.nbytes < 0:
            raise channel.reject(excess or f"asked to save {size.nbytes} bytes", pending)
        region = self._state_region(worker, size.nbytes)
        pending = channel.ask(Fetch(seq := channel.next_seq(), region.id), seq, hook=hook)
        self._wait_done(channel, pending)
        # Copied first, checked then: the worker could still write to where it is.
        copy = Region(size.nbytes, writable=False)
        copy.buffer[: size.nbytes] = region.buffer[: size.nbytes]
        try:
            state = pytree.read(copy.buffer[: size.nbytes])
        except pytree.PlainDataError as error:
            raise channel.reject(f"saved {error}", pending) from error
        self._readable[state] = copy
        return state

    def load_state_dict(self, state: TensorFile) -> None:
        """Give every worker the state; one that this plugin has saved is read where it lies."""
        nbytes, hook = state.nbytes, f"{self.spec.role}.load_state_dict"
        region = self._readable.get(state)
        if region is None:
            region = Region(nbytes, writable=False)
            state.copy_to(region.buffer.numpy().data)
        asked = []
        for worker in self._workers:
            channel = worker.channel
            channel.begin(self.spec.deadline_s, hook)
            worker.exchange.attach(region)
            load = Load(channel.next_seq(), region.id, nbytes)
            asked.append((worker, channel.ask(load, load.seq, hook=hook)))
        for worker, pending in asked:
            self._wait_done(worker.channel, pending)
            worker.exchange.detach(region.id)

    def _state_region(self, worker: WorkerHandle, nbytes: int) -> Region:
        """Return the region to which a worker writes its state.

        It is replaced by one twice as large: a worker may keep all that it ever mapped, so that the more
        there are, the more of its budget is gone.
        """
        old = worker.state_region
        if old is not None and old.nbytes >= nbytes:
            return old
        worker.state_region = None
        if old is not None:
            worker.exchange.drop_region(old)
        wanted = nbytes if old is None else max(nbytes, 2 * old.nbytes)
        try:
            region = worker.exchange.new_region(wanted, writable=True)
        except PluginMemoryError:
            if wanted == nbytes:
                raise
            region = worker.exchange.new_region(nbytes, writable=True)
        worker.state_region = region
        self._group.count_results()
        return region

    # life

    def restart(self) -> None:
        """Replace all processes by fresh ones."""
        self._forget_posted()
        self._group.restart()
        self._adopt_ready()

    def close(self) -> None:
        """End all processes."""
        self._forget_posted()
        self._group.end()

    # inside, calls

    def _submit(
        self,
        worker: WorkerHandle,
        slot: CallMemory,
        method: str,
        arguments: Mapping[str, Any],
        step: StepInfo,
        *,
        snapshot: bool,
    ) -> Pending:
        form = self._forms[method]
        worker.channel.begin(self.spec.deadline_s, form.hook, step.global_step)
        packed = slot.pack(form.names, arguments, snapshot=snapshot)
        held = worker.exchange.result_bytes
        place = slot.place_result(form.kind, arguments)
        if worker.exchange.result_bytes != held:
            self._group.count_results()
        seq = worker.channel.next_seq()
        call = Call(
            seq,
            "forward" if method == "forward" else "backward",
            StepCounters(
                step.global_step,
                step.epoch,
                step.micro_batch,
                step.steps_total,
                step.lr_factor,
                step.pass_index,
                step.seed,
            ),
            packed,
            place,
            slot.outbox.id,
        )
        return worker.channel.ask(call, seq, hook=form.hook, step=step.global_step)

    def _finish(
        self,
        worker: WorkerHandle,
        pending: Pending,
        slot: CallMemory,
        method: str,
        arguments: Mapping[str, Any],
        step: StepInfo,
        into: TensorMap | None = None,
    ) -> Any:
        channel = worker.channel
        reply = channel.wait(pending, self.spec.deadline_s)
        self.usage.calls += 1
        kind = self._forms[method].kind
        try:
            if isinstance(reply, Large):
                reply = _from_outbox(slot.outbox, reply.nbytes)
            if not isinstance(reply, Done):
                raise MessageError(f"a {type(reply).__name__} in answer to a call")
            if reply.scalars:
                check_scalars(reply.scalars)
            result = slot.unpack(reply, kind, arguments, into)
            if result is not None and not kind.is_map:
                # Maps were checked as they were copied.
                result = kind.check(result, arguments, finite=True)
                if kind.is_logged:
                    reply.scalars[method] = result
            if reply.scalars or isinstance(result, Report):
                self._names.add(reply.scalars, result)
        except MessageError as error:
            raise channel.reject(f"sent {error}", pending) from error
        except ResultError as error:
            raise channel.reject(str(error), pending) from error
        # What a worker says of its own time is believed up to what the host saw.
        believed = 0.0 <= reply.seconds <= pending.elapsed_s
        self.usage.seconds += reply.seconds if believed else pending.elapsed_s
        step.scalars.update(reply.scalars)
        return result

    def _finish_posted(self) -> tuple[StepInfo, Any]:
        posted = self._posted.popleft()
        # A report is measured by no argument, so none are kept for it.
        return posted.step, self._finish(
            self._workers[0], posted.pending, posted.slot, posted.method, {}, posted.step
        )

    def _forget(self, flying: Iterable[_Flight]) -> None:
        """Wait for calls whose results nobody wants any more, unless the run ends."""
        if self._stop.is_made():
            return
        for flight in flying:
            # A worker that is dead tells whoever calls it next why.
            with contextlib.suppress(PluginError, CutOffError):
                if flight.pending is not None:
                    flight.worker.channel.wait(flight.pending, self.spec.deadline_s)

    def _wait_done(self, channel: Channel, pending: Pending) -> None:
        """Wait for a request that only has to be done."""
        reply = channel.wait(pending, self.spec.deadline_s)
        if not isinstance(reply, Done):
            raise channel.reject(f"answered with {type(reply).__name__} where a Done is due", pending)

    # inside, life

    def _adopt_ready(self) -> None:
        """Take over what the plugin said of itself when it was started."""
        ready = self._group.ready
        self.accepts = {} if ready is None else ready.accepts
        self._forms = {method: self._form(method, names) for method, names in self.accepts.items()}
        self.usage.layers = tuple(layer.name for layer in self.layers if layer.status == "active")

    def _form(self, method: str, accepted: tuple[str, ...]) -> _Form:
        kind = kinds_of(self.spec.role_info)[method]
        # The inside needs what a result is measured by, to tell the plugin what is wrong with it.
        names = dict.fromkeys([*accepted, kind.measured_by])
        sent = tuple(name for name in names if name not in {"step", ""})
        return _Form(f"{self.spec.role}.{method}", kind, sent)

    def _forget_posted(self) -> None:
        self._posted.clear()
        self._refused_step = -1


def _from_outbox(outbox: Region, nbytes: int) -> Done:
    if not 0 < nbytes <= outbox.nbytes:
        raise MessageError(f"a reply of {nbytes} bytes in an outbox of {outbox.nbytes}")
    # Copied before it is decoded: the worker can still write there.
    return decode(from_outbox, outbox.buffer[:nbytes].numpy().tobytes())
