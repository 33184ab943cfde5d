"""The stand-in for an isolated plugin: the engine cannot tell it from a local one."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..hooks import plain
from ..hooks.check import ResultError, check_result, check_scalars
from ..hooks.errors import PluginError
from ..hooks.plugin import PluginSpec, PluginUsage
from ..hooks.types import Batch, StepInfo
from .budget import budget_bytes
from .channel import Pending
from .crew import SLOTS_PER_WORKER, Crew, Services, Worker
from .exchange import Slot
from .layers import LayerStatus
from .memory import Region
from .protocol import (
    Call,
    Done,
    Fetch,
    Large,
    Load,
    MessageError,
    Save,
    Size,
    Step,
    decode,
    from_worker,
)

#: Argument whose shape a result must have, where it is not the one that it replaces.
_MEASURED_BY = {"loss": "outputs"}


@dataclass(slots=True, eq=False)
class _Flight:
    """A batch on its way through a worker; ``step`` is the job's, ``own`` the plugin's."""

    worker: Worker
    slot: Slot
    pending: Pending | None
    batch: Batch
    step: StepInfo
    own: StepInfo


@dataclass(frozen=True, slots=True)
class _Posted:
    """A call of a monitor that nobody waits for."""

    pending: Pending
    slot: Slot
    method: str
    step: StepInfo


class IsolatedPlugin:
    """A plugin in processes of its own; see ``hooks.plugin.Plugin`` for the methods.

    Args:
        spec: What to start.
        services: Zygote, watchdog and memory of the run.
    """

    def __init__(self, spec: PluginSpec, services: Services) -> None:
        self.spec = spec
        self.usage = PluginUsage(budget_bytes=budget_bytes(spec.memory_fraction))
        self.accepts: Mapping[str, tuple[str, ...]] = {}
        self._crew = Crew(spec, self.usage, services)
        self._posted: deque[_Posted] = deque()
        self._refused_step = -1
        self._start()

    @property
    def layers(self) -> tuple[LayerStatus, ...]:
        """How each layer of its sandbox stands, as verified before its code was loaded."""
        return self._crew.layers

    @property
    def _workers(self) -> list[Worker]:
        return self._crew.workers

    # calls

    def call(self, method: str, arguments: Mapping[str, Any], step: StepInfo) -> Any:
        """Run one method in the first worker and return its checked result."""
        worker = self._workers[0]
        slot = worker.slots[0]
        pending = self._submit(worker, slot, method, arguments, step, snapshot=False)
        return self._finish(worker, pending, slot, method, arguments, step)

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
                    changed = self._land(flying[0])
                except PluginError as error:
                    failed(error)
                    break
                flight = flying.popleft()
                done(flight.own)
                yield (flight.batch if changed is None else changed), flight.step
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
        turns: Iterator[tuple[Worker, Slot]],
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

    def _land(self, flight: _Flight) -> Any:
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

    def state_dict(self) -> Any:
        """Return the first worker's state as plain data, in tensors of the host's own."""
        if self._crew.ready is None or not self._crew.ready.keeps_state:
            return None
        worker, hook = self._workers[0], f"{self.spec.role}.state_dict"
        channel = worker.channel
        channel.begin(self.spec.deadline_s)
        pending = channel.ask(Save(seq := channel.next_seq()), seq, hook=hook)
        size = channel.wait(pending, self.spec.deadline_s)
        if not isinstance(size, Size):
            raise channel.reject(f"answered 'save' with {type(size).__name__}", pending)
        if size.nbytes == 0:
            return None
        if not 0 < size.nbytes <= self.usage.budget_bytes:
            raise channel.reject(f"asked to save {size.nbytes} bytes, more than its budget", pending)
        if worker.state_region is None or worker.state_region.nbytes < size.nbytes:
            if worker.state_region is not None:
                worker.exchange.drop_region(worker.state_region)
            worker.state_region = worker.exchange.new_region(size.nbytes, writable=True)
            self._crew.count_results()
        pending = channel.ask(Fetch(seq := channel.next_seq(), worker.state_region.id), seq, hook=hook)
        channel.wait(pending, self.spec.deadline_s)
        data = worker.state_region.buffer[: size.nbytes].numpy().tobytes()
        try:
            return plain.loads(data)
        except plain.PlainDataError as error:
            raise channel.reject(f"saved {error}", pending) from error

    def load_state_dict(self, state: Any) -> None:
        """Give every worker the state."""
        data = torch.frombuffer(bytearray(plain.dumps(state)), dtype=torch.uint8)
        for worker in self._workers:
            worker.channel.begin(self.spec.deadline_s)
            region = worker.exchange.new_region(data.numel(), writable=False)
            region.buffer[: data.numel()].copy_(data)
            channel = worker.channel
            pending = channel.ask(
                Load(seq := channel.next_seq(), region.id, data.numel()),
                seq,
                hook=f"{self.spec.role}.load_state_dict",
            )
            channel.wait(pending, self.spec.deadline_s)
            worker.exchange.drop_region(region)

    # life

    def restart(self) -> None:
        """Replace all processes by fresh ones."""
        self._end()
        self._start()

    def close(self) -> None:
        """End all processes."""
        self._end()

    # inside, calls

    def _submit(
        self,
        worker: Worker,
        slot: Slot,
        method: str,
        arguments: Mapping[str, Any],
        step: StepInfo,
        *,
        snapshot: bool,
    ) -> Pending:
        worker.channel.begin(self.spec.deadline_s)
        changes = self.spec.role_info.changes.get(method)
        names = dict.fromkeys(name for name in self.accepts[method] if name != "step")
        if changes is not None:
            # The inside needs it to tell the plugin what is wrong with a result.
            names[_MEASURED_BY.get(changes, changes)] = None
        packed = slot.pack(tuple(names), arguments, snapshot=snapshot)
        place = slot.place_result(changes, arguments)
        self._crew.count_results()
        seq = worker.channel.next_seq()
        call = Call(
            seq,
            "forward" if method == "forward" else "backward",
            Step(
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
        return worker.channel.ask(call, seq, hook=f"{self.spec.role}.{method}", step=step.global_step)

    def _finish(
        self,
        worker: Worker,
        pending: Pending,
        slot: Slot,
        method: str,
        arguments: Mapping[str, Any],
        step: StepInfo,
    ) -> Any:
        channel = worker.channel
        reply = channel.wait(pending, self.spec.deadline_s)
        self.usage.calls += 1
        changes = self.spec.role_info.changes.get(method)
        try:
            if isinstance(reply, Large):
                reply = _from_outbox(slot.outbox, reply.nbytes)
            if not isinstance(reply, Done):
                raise MessageError(f"a {type(reply).__name__} in answer to a call")
            check_scalars(reply.scalars)
            result = check_result(changes, slot.unpack(reply, changes, arguments), arguments)
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
        """Wait for calls whose results nobody wants any more."""
        for flight in flying:
            # A worker that is dead tells whoever calls it next why.
            with contextlib.suppress(PluginError):
                if flight.pending is not None:
                    flight.worker.channel.wait(flight.pending, self.spec.deadline_s)

    # inside, life

    def _start(self) -> None:
        self._crew.start()
        ready = self._crew.ready
        self.accepts = {} if ready is None else ready.accepts
        self.usage.layers = tuple(layer.name for layer in self.layers if layer.status == "active")

    def _end(self) -> None:
        self._posted.clear()
        self._refused_step = -1
        self._crew.end()


def _from_outbox(outbox: Region, nbytes: int) -> Done:
    if not 0 < nbytes <= outbox.nbytes:
        raise MessageError(f"a reply of {nbytes} bytes in an outbox of {outbox.nbytes}")
    # Copied before it is decoded: the worker can still write there.
    reply = decode(from_worker, outbox.buffer[:nbytes].numpy().tobytes())
    if not isinstance(reply, Done):
        raise MessageError(f"a {type(reply).__name__} in its outbox")
    return reply
