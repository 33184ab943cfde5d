"""The inside of a sandbox: lock up, load one plugin, answer calls.

Everything here runs in the plugin's own process. Once plugin code is loaded,
nothing that this module says is trusted by the host any more.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import torch
from torch import Tensor

from ...hooks.connect import route_through
from ...hooks.errors import JobError, Phase
from ...hooks.specs import ROLES
from ...hooks.trees import Tree
from ...hooks.types import Batch, Report, StepInfo, TensorMap, TensorSpec
from ...imports.digested_imports import hold_imports
from ...imports.import_guard import take_off
from ...imports.module_finder import add_roots
from ...imports.source_only import import_from_source
from ...plugins.local_plugin import not_passed, says
from ...plugins.plugin_class import accepted_arguments, load_class, load_error
from ...plugins.result_checks import (
    NotFiniteError,
    ResultError,
    check_scalars,
    without_overlap,
)
from ...plugins.result_kinds import Form, ResultKind, kinds_of
from ...plugins.transient_errors import may_pass
from ...reproducibility.deterministic import be_repeatable
from ...tensors import pytree
from ...tensors.byte_batch import ByteBatch
from ...tensors.changeable import Changeable
from ...tensors.tensor_file import TensorFile
from ..policy.layer_status import LayerError, lacking
from ..policy.procfs import held_bytes
from ..transport.messages import (
    MAX_MESSAGE_BYTES,
    MAX_PATH,
    MAX_TEXT,
    Argument,
    Attach,
    BatchAt,
    Call,
    Detach,
    DictAt,
    Done,
    Fault,
    Fetch,
    FromWorker,
    Large,
    ListAt,
    Listening,
    Load,
    Locked,
    MapAt,
    MapLayout,
    Node,
    Number,
    Numbers,
    Open,
    Ready,
    Save,
    Size,
    Start,
    TensorAt,
    TensorRef,
    ToWorker,
    TreesAt,
    WireHistogram,
    WireImage,
    WireReport,
    encoder,
    layout_specs,
    receive_with_fds,
    send,
    to_worker,
)
from ..transport.shared_memory import aligned, map_region
from .call_seeding import Generators
from .connect_client import ConnectClient
from .layers.confine import confine
from .malloc import keep_freed_memory
from .probes.run_probes import run_probes

#: Left free in a message for its frame when deciding whether a reply needs the outbox.
_MARGIN_BYTES = 1024


def main(sock: socket.socket, log: int) -> NoReturn:
    """Serve one host until it closes; never returns into the zygote's code."""
    status = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        # Of its own accord, on a stack of its own: where it is when a signal ends it.
        faulthandler.enable(sys.stderr)
        Worker(sock).serve()
        status = 0
    except _HostGoneError:
        status = 0
    except BaseException:  # noqa: BLE001 - the last frame of the process: say why, then end it
        traceback.print_exc()
    finally:
        os._exit(status)


class _HostGoneError(Exception):
    """The host has closed; not to be mistaken for an EOFError that a plugin raises."""


class Worker:
    """One plugin and what it has been given."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._plugin: Any = None
        self._kinds: Mapping[str, ResultKind] = {}
        self._autograd = self._in_place = False
        self._accepts: dict[str, tuple[str, ...]] = {}
        self._regions: dict[int, Tensor] = {}
        self._layouts: dict[int, tuple[TensorSpec, ...]] = {}
        self._maps: dict[tuple[int, int, int], TensorMap] = {}
        #: By the identities of an argument and of the place that its result goes to.
        self._changeable: dict[tuple[int, int], Changeable] = {}
        self._generators = Generators()
        self._buffer = bytearray(MAX_MESSAGE_BYTES)
        #: What ``save`` was answered with, until it is fetched; its tensors are the plugin's.
        self._state: TensorFile | None = None
        self._start_seed = 0
        self._phase: Phase = "import"

    def serve(self) -> None:
        """Answer messages in the order in which they come."""
        torch.set_grad_enabled(False)
        while True:
            message, fds = self._receive()
            match message:
                case Attach(region, nbytes, writable):
                    self._regions[region] = map_region(fds[0], nbytes, writable=writable)
                case Detach(region):
                    self._detach(region)
                case MapLayout(layout, region, nbytes):
                    self._maps = {key: tensors for key, tensors in self._maps.items() if key[0] != layout}
                    self._changeable.clear()
                    self._layouts[layout] = self._read_layout(region, nbytes)
                case _:
                    self._serve_request(message, fds)

    def _receive(self) -> tuple[ToWorker, list[int]]:
        try:
            return receive_with_fds(self._sock, to_worker, 1, self._buffer)
        except EOFError:
            raise _HostGoneError from None

    def _serve_request(self, message: Open | Start | Call | Save | Fetch | Load, fds: list[int]) -> None:
        match message:
            case Call():
                self._answer(message.seq, "raised", lambda: self._call(message))
            case Open():
                self._send(self._lock(message, fds))
            case Start():
                self._answer(0, "load", lambda: self._start(message))
            case Save(seq):
                self._answer(seq, "raised", lambda: self._save(seq))
            case Load(seq):
                self._answer(seq, "raised", lambda: self._load(message))
            case Fetch(seq, region):
                self._fetch(region)
                self._send(_done(seq))

    def _lock(self, message: Open, fds: list[int]) -> Locked:
        keep_fds = (self._sock.fileno(), *fds)
        line = socket.socket(fileno=fds[0]) if fds else None
        route_through(ConnectClient(message.network, line))
        here = msgspec.structs.replace(message.confinement, parent_pid=os.getppid(), keep_fds=keep_fds)
        keep_freed_memory(message.confinement.data_limit_bytes)
        listeners: list[int] = []
        try:
            layers = confine(here, listeners.append)
        except LayerError as error:
            # Half confined: the host is told how all layers stand, and ends this process.
            layers = list(error.layers) or [lacking(error.layer, error.status, error.reason)]
        for listener in listeners:
            # With it, a plugin could allow itself what the filter refuses.
            send(self._sock, Listening(), (listener,))
            os.close(listener)
        return Locked(layers, run_probes(msgspec.structs.replace(message.probes, keep_fds=keep_fds)))

    # what the plugin has been given

    def _detach(self, region: int) -> None:
        del self._regions[region]
        self._maps = {key: tensors for key, tensors in self._maps.items() if key[1] != region}
        self._changeable.clear()

    def _read_layout(self, region: int, nbytes: int) -> tuple[TensorSpec, ...]:
        data = self._regions[region][:nbytes].numpy().tobytes()
        return tuple(
            TensorSpec(name, getattr(torch, dtype), tuple(shape), offset, size)
            for name, dtype, shape, offset, size in layout_specs.decode(data)
        )

    def _tensor(self, ref: TensorRef) -> Tensor:
        region, offset, dtype_name, shape = ref
        dtype: torch.dtype = getattr(torch, dtype_name)
        nbytes = math.prod(shape) * dtype.itemsize
        return self._regions[region][offset : offset + nbytes].view(dtype).view(shape)

    def _map(self, layout: int, region: int, offset: int, nbytes: int) -> TensorMap:
        key = (layout, region, offset)
        if key not in self._maps:
            buffer = self._regions[region][offset : offset + nbytes]
            self._maps[key] = TensorMap(self._layouts[layout], buffer)
        return self._maps[key]

    def _argument(self, argument: Argument) -> Any:
        match argument:
            case Number(value) | Numbers(value):
                return value
            case TensorAt(ref):
                return self._tensor(ref)
            case DictAt() | ListAt():
                return self._tree(argument)
            case TreesAt(inputs, targets, indices, num_classes):
                return Batch(self._tree(inputs), self._tree(targets), self._tensor(indices), num_classes)
            case BatchAt(inputs, targets, indices, num_classes, in_bytes):
                kind = ByteBatch if in_bytes else Batch
                return kind(self._tensor(inputs), self._tensor(targets), self._tensor(indices), num_classes)
            case MapAt(layout, region, offset, nbytes):
                return self._map(layout, region, offset, nbytes)

    def _tree(self, node: Node) -> Tree:
        match node:
            case DictAt(items):
                return {name: self._tree(item) for name, item in items.items()}
            case ListAt(items):
                return [self._tree(item) for item in items]
            case TensorAt(ref):
                return self._tensor(ref)

    # requests

    def _start(self, start: Start) -> None:
        # A plugin that uses a global generator before its first call is repeatable too.
        self._start_seed = start.seed
        self._generators.seed_with(start.seed)
        torch.set_num_threads(start.threads)
        be_repeatable()
        # From here on it is the plugin that imports, in its own sandbox.
        take_off()
        import_from_source()
        sys.path[:0] = [folder for folder in start.search_path if folder not in sys.path]
        add_roots(start.roots)
        if start.digested:
            hold_imports(Path(start.digested))
        if start.lack is not None:
            start.lack.hide([start.module, *start.roots])
        role = ROLES[start.role]
        self._kinds, self._autograd, self._in_place = kinds_of(role), role.autograd, not role.may_disable
        cls = self._with_autograd(load_class)(start.module, start.qualname)
        if getattr(cls, "role", None) != start.role:
            raise TypeError(f"{start.qualname}.role is {getattr(cls, 'role', None)!r}, not {start.role!r}")
        self._accepts = accepted_arguments(cls)
        if start.lack is not None:
            self._accepts = start.lack.offered(start.role, self._accepts)
        self._phase = "constructor"
        self._plugin = self._with_autograd(lambda: cls(**start.options))()
        self._phase = "call"
        self._accepts = not_passed(self._plugin, self._accepts)
        keeps_state = hasattr(self._plugin, "state_dict") and hasattr(self._plugin, "load_state_dict")
        reads_bytes, takes_trees = (says(self._plugin, name) for name in ("reads_bytes", "takes_trees"))
        self._send(Ready(self._accepts, keeps_state, reads_bytes, takes_trees))

    def _call(self, call: Call) -> None:
        kind = self._kinds[call.method]
        arguments = {name: self._argument(argument) for name, argument in call.arguments.items()}
        changeable = None
        if kind.is_map:
            of = kind.measured_by
            changeable = arguments[of] = self._with_place(arguments[of], self._result_map(call, of))
        step = StepInfo(*msgspec.structs.astuple(call.step))
        given = {name: step if name == "step" else arguments[name] for name in self._accepts[call.method]}
        self._generators.seed(step)
        started = time.perf_counter()
        result = self._with_autograd(getattr(self._plugin, call.method))(**given)
        seconds = time.perf_counter() - started
        if changeable is not None and self._in_place:
            result = changeable.result(result)
        checked = None if result is None else kind.check(result, arguments, finite=False)
        check_scalars(step.scalars)
        form: Form = "none"
        value = 0.0
        written = _ResultWriter(self._regions.get(call.result), lambda of: self._result_map(call, of))
        if checked is not None:
            form, value = kind.write(checked, arguments, written)
        scalars = {name: float(number) for name, number in step.scalars.items()}
        self._reply(call, Done(call.seq, form, value, seconds, scalars, written.sent))
        self._generators.prepare(call.method, step)

    def _with_autograd(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of the plugin's; with torch recording graphs in it if its role asks for that."""
        return torch.enable_grad()(function) if self._autograd else function

    def _result_map(self, call: Call, argument: str) -> TensorMap:
        """Return the result region as tensors that lie as those of an argument."""
        at = call.arguments[argument]
        assert isinstance(at, MapAt)  # noqa: S101 - the host says so
        return self._map(at.layout, call.result, 0, at.nbytes)

    def _with_place(self, argument: TensorMap, place: TensorMap) -> Changeable:
        key = (id(argument), id(place))
        known = self._changeable.get(key)
        if known is None:
            # Holding both keeps their ids from being given to others.
            known = self._changeable[key] = Changeable(argument, place)
        return known.begin()

    def _reply(self, call: Call, done: Done) -> None:
        data = encoder.encode(done)
        if len(data) <= MAX_MESSAGE_BYTES - _MARGIN_BYTES:
            self._send_bytes(data)
            return
        outbox = self._regions[call.outbox]
        if len(data) > outbox.numel():
            raise ResultError(f"reported {len(data)} bytes in one call; at most {outbox.numel()}")
        outbox[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        self._send(Large(call.seq, len(data)))

    def _save(self, seq: int) -> None:
        self._generators.seed_with(self._start_seed)
        keeps = hasattr(self._plugin, "state_dict")
        state = self._with_autograd(self._plugin.state_dict)() if keeps else None
        # Not copied: no code of the plugin's is called before it is fetched.
        self._state = None if state is None else pytree.encode(state, copy=False)
        self._send(Size(seq, 0 if self._state is None else self._state.nbytes))

    def _fetch(self, region: int) -> None:
        if self._state is not None:
            self._state.copy_to(self._regions[region].numpy().data)
        self._state = None

    def _load(self, load: Load) -> None:
        self._generators.seed_with(self._start_seed)
        # Its tensors are copies: nothing can write to the region, and it is soon gone.
        state = pytree.decode(pytree.read(self._regions[load.region][: load.nbytes]))
        self._with_autograd(self._plugin.load_state_dict)(state)
        self._send(_done(load.seq))

    def _send(self, message: FromWorker) -> None:
        self._send_bytes(encoder.encode(message))

    def _send_bytes(self, data: bytes) -> None:
        try:
            self._sock.send(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _HostGoneError from error

    def _answer(self, seq: int, kind: Any, run: Any) -> None:
        """Run a request; whatever the plugin raises becomes a ``Fault``."""
        try:
            run()
        except _HostGoneError:
            raise
        except ResultError as error:
            what: Any = "not finite" if isinstance(error, NotFiniteError) else "result"
            self._send(Fault(seq, what, _clip(str(error)), "", 0))
        except pytree.PlainDataError as error:
            self._send(Fault(seq, "result", _clip(f"state_dict(): {error}"), "", 0))
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything, SystemExit included
            out_of_memory = isinstance(error, MemoryError) or "allocate memory" in str(error)
            refuses = kind == "raised" and isinstance(error, JobError)
            if kind == "raised" and may_pass(error):
                kind = "transient"
            used = held_bytes(os.getpid())
            fault = Fault(
                seq,
                "memory" if out_of_memory else "refused" if refuses else kind,
                _clip(str(error)),
                _clip(_traceback(error)),
                used,
                "" if refuses else _clip(type(error).__name__),
                load_error(error, self._phase),
                refused_file(error),
            )
            # What the frames of the error hold may be all the memory there is.
            error.__traceback__ = None
            del error
            self._send(fault)


class _ResultWriter:
    """The memory that one result goes to; a ``Writer``.

    Attributes:
        sent: What goes along with the reply.
    """

    def __init__(self, region: Tensor | None, map_of: Callable[[str], TensorMap]) -> None:
        self.sent: WireReport | None = None
        self._region = region
        self._map_of = map_of
        self._end = 0

    def tensor(self, tensor: Tensor) -> None:
        assert self._region is not None  # noqa: S101 - the host says so
        offset = aligned(self._end)
        self._end = offset + tensor.numel() * tensor.element_size()
        self._region[offset : self._end].view(tensor.dtype).view(tensor.shape).copy_(tensor)

    def map(self, argument: str, tensors: Mapping[str, Tensor]) -> None:
        place = self._map_of(argument)
        if tensors is place:
            return  # it was computed there
        if isinstance(tensors, TensorMap) and tensors.specs is place.specs:
            place.buffer.copy_(tensors.buffer[: place.buffer.numel()])
            return
        torch._foreach_copy_(list(place.values()), without_overlap(tensors, place))

    def report(self, report: Report) -> None:
        self.sent = _wire_report(report)


def _done(seq: int) -> Done:
    return Done(seq, "none", 0.0, 0.0, {}, None)


def _clip(text: str) -> str:
    # In bytes, as a message must have room for two texts of any characters; a lone surrogate has none.
    data, half = text.encode(errors="backslashreplace"), MAX_TEXT // 2
    if len(data) <= MAX_TEXT:
        return data.decode()
    return f"{data[:half].decode(errors='ignore')}\n…\n{data[-half:].decode(errors='ignore')}"


def refused_file(error: BaseException) -> bytes:
    """Return the file that the kernel did not let the plugin have, empty if that is not what was raised."""
    if not isinstance(error, PermissionError) or not isinstance(error.filename, str):
        return b""
    # A name that no file can have is made up by the plugin.
    with contextlib.suppress(UnicodeEncodeError):
        path = os.fsencode(error.filename)
        return path if len(path) <= MAX_PATH else b""
    return b""


def _traceback(error: BaseException) -> str:
    """Format the plugin's own frames; the first ones are this module's."""
    try:
        return "".join(traceback.format_exception(error))
    except MemoryError:
        return ""


def _wire_report(report: Report) -> WireReport:
    return WireReport(
        {name: float(value) for name, value in report.scalars.items()},
        {
            name: WireHistogram([float(x) for x in histogram.counts], [float(x) for x in histogram.edges])
            for name, histogram in report.histograms.items()
        },
        {name: _wire_image(image) for name, image in report.images.items()},
    )


def _wire_image(image: Tensor) -> WireImage:
    channels = image.shape[2] if image.dim() == 3 else 0  # noqa: PLR2004 - (H, W, C)
    return WireImage(image.shape[0], image.shape[1], channels, image.contiguous().numpy().tobytes())
