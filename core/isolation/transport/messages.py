"""Messages between host, zygote and workers, and their limits.

Each message is one datagram of a ``SOCK_SEQPACKET`` pair, so it arrives whole or
not at all. It is msgpack of a fixed schema; nothing is ever unpickled. Tensors
do not travel: a message names a region of shared memory, which the host owns.
What a worker sends is untrusted; the host believes of it no more than is
checked against what it asked for.
"""

from __future__ import annotations

import array
import os
import socket
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from ...hooks.errors import Phase
from ...plugins.earlier_series import Lack
from ...plugins.result_checks import MAX_BINS, MAX_HISTOGRAMS, MAX_IMAGES, MAX_SCALARS
from ...plugins.result_kinds import Form
from ..policy.confinement import Confinement, Network, ProbeContext
from ..policy.layer_status import LayerStatus

MAX_MESSAGE_BYTES = 64 * 1024
MAX_TEXT = 8 * 1024
_MAX_QUOTED = 200
_FD_BYTES = array.array("i").itemsize
# As plain numbers: combining flags of an enumeration costs as much as a small system call.
_CUT_OFF = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
_WHOLE_SIZE = int(socket.MSG_TRUNC)
#: Flag of ``send``: refuse at once where there is no room.
AT_ONCE = int(socket.MSG_DONTWAIT)

#: Text of a fault; the inside cuts it to ``MAX_TEXT`` and a mark.
_Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT + 16)]
MAX_PATH = 4096
_Path = Annotated[bytes, msgspec.Meta(max_length=MAX_PATH)]
# A number of one byte becomes an object of 32. The decoder looks at these lengths before it makes any,
# so that what a reply takes is bounded by what may be reported, not by the size of the outbox.
_Scalars = Annotated[dict[str, float], msgspec.Meta(max_length=MAX_SCALARS)]
_Counts = Annotated[list[float], msgspec.Meta(max_length=MAX_BINS)]
_Edges = Annotated[list[float], msgspec.Meta(max_length=MAX_BINS + 1)]

#: Tensor in shared memory: (region, offset in bytes, dtype without "torch.", shape).
TensorRef = tuple[int, int, str, tuple[int, ...]]


class MessageError(ValueError):
    """Bytes are no message of the expected kind, or too many."""


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all messages: a msgpack array led by the class's name."""


# host → worker


class Open(_Message, frozen=True):
    """Lock yourself up; the reply is ``Locked``. A line to the host's broker comes along if it has one."""

    confinement: Confinement
    probes: ProbeContext
    network: Network


class Start(_Message, frozen=True):
    """Import and construct the plugin; the reply is ``Ready``.

    ``digested`` is the path of a file with the ``DigestedFiles`` that imports are held to, or ``""``.
    """

    module: str
    qualname: str
    role: str
    options: dict[str, Any]
    search_path: tuple[str, ...]
    roots: dict[str, str]
    threads: int
    seed: int
    lack: Lack | None
    digested: str = ""


class Attach(_Message, frozen=True):
    """Map a region; its file descriptor comes with the message. No reply."""

    region: int
    nbytes: int
    writable: bool


class Detach(_Message, frozen=True):
    """Forget a region. No reply."""

    region: int


class MapLayout(_Message, frozen=True):
    """Remember how the tensors of a map lie; the specs are ``nbytes`` of msgpack in a region. No reply."""

    layout: int
    region: int
    nbytes: int


class Number(_Message, frozen=True):
    """A float argument."""

    value: float


class Numbers(_Message, frozen=True):
    """An argument of floats by name."""

    values: dict[str, float]


class TensorAt(_Message, frozen=True):
    """A tensor argument."""

    ref: TensorRef


class DictAt(_Message, frozen=True):
    """A tree that is a dict."""

    items: dict[str, Node]


class ListAt(_Message, frozen=True):
    """A tree that is a list."""

    items: list[Node]


Node = TensorAt | DictAt | ListAt


class TreesAt(_Message, frozen=True):
    """A ``Batch`` argument with inputs or targets that are no tensor."""

    inputs: Node
    targets: Node
    indices: TensorRef
    num_classes: int | None


class BatchAt(_Message, frozen=True):
    """A ``Batch`` argument of tensors; ``in_bytes`` if it is a ``ByteBatch``."""

    inputs: TensorRef
    targets: TensorRef
    indices: TensorRef
    num_classes: int | None
    in_bytes: bool = False


class MapAt(_Message, frozen=True):
    """A ``TensorMap`` argument: its layout, and where its buffer starts."""

    layout: int
    region: int
    offset: int
    nbytes: int


Argument = Number | Numbers | TensorAt | DictAt | ListAt | TreesAt | BatchAt | MapAt


class StepCounters(_Message, frozen=True):
    """The counters of ``StepInfo``."""

    global_step: int
    epoch: int
    micro_batch: int
    steps_total: int
    lr_factor: float
    pass_index: int
    seed: int


class Call(_Message, frozen=True):
    """Run a method; the reply is ``Done``, ``Large`` or ``Fault``.

    Attributes:
        result: Region where the changed argument goes, or 0. A map is written in
            the layout of the argument, a batch as inputs then targets, a loss term
            as its gradient.
        outbox: Region for a reply that is too large for a message.
    """

    seq: int
    method: Literal["forward", "backward"]
    step: StepCounters
    arguments: dict[str, Argument]
    result: int
    outbox: int


class Save(_Message, frozen=True):
    """Encode your state; the reply is ``Size``."""

    seq: int


class Fetch(_Message, frozen=True):
    """Write the encoded state to a region; the reply is ``Done``."""

    seq: int
    region: int


class Load(_Message, frozen=True):
    """Take ``nbytes`` of encoded state from a region; the reply is ``Done``."""

    seq: int
    region: int
    nbytes: int


ToWorker = Open | Start | Attach | Detach | MapLayout | Call | Save | Fetch | Load


# worker → host


class Listening(_Message, frozen=True):
    """The layers are on; the listener of the system call filter comes along. ``Locked`` follows.

    The only message of a worker that may bring a descriptor, and sent before plugin code is there.
    """


class Locked(_Message, frozen=True):
    """The layers as each tells of itself, and what was tried against it."""

    layers: list[LayerStatus]
    probes: dict[str, bool]


class Ready(_Message, frozen=True):
    """The plugin is constructed; method to the arguments that it takes."""

    accepts: dict[str, tuple[str, ...]]
    keeps_state: bool
    reads_bytes: bool = False
    takes_trees: bool = False


class WireHistogram(_Message, frozen=True):
    """A ``Histogram``."""

    counts: _Counts
    edges: _Edges


class WireImage(_Message, frozen=True):
    """A picture: uint8, row by row; ``channels`` is 0 for (H, W)."""

    height: int
    width: int
    channels: int
    data: bytes


class WireReport(_Message, frozen=True):
    """A ``Report``."""

    scalars: _Scalars
    histograms: Annotated[dict[str, WireHistogram], msgspec.Meta(max_length=MAX_HISTOGRAMS)]
    images: Annotated[dict[str, WireImage], msgspec.Meta(max_length=MAX_IMAGES)]


class Done(_Message, frozen=True):
    """A call has finished.

    Attributes:
        result: What was written to the result region, or that nothing was.
        value: A loss term's value or a scale's factor.
        seconds: Time spent in the plugin's code.
        scalars: What it logged.
    """

    seq: int
    result: Form
    value: float
    seconds: float
    scalars: _Scalars
    report: WireReport | None


class Large(_Message, frozen=True):
    """A ``Done`` of ``nbytes`` lies in the outbox."""

    seq: int
    nbytes: int


class Size(_Message, frozen=True):
    """The encoded state has ``nbytes``; 0 if the plugin keeps none."""

    seq: int
    nbytes: int


class Fault(_Message, frozen=True):
    """A request failed.

    Attributes:
        kind: ``"raised"`` by the plugin, ``"transient"`` when what it raised may pass by itself,
            ``"memory"`` when a limit refused an allocation, ``"result"`` when what it returned does not fit,
            ``"not finite"`` when that is for its numbers alone, ``"load"`` when it could not be constructed,
            ``"refused"`` when it says that the job does not fit it.
        message: What was raised says.
        used_bytes: Memory of its own when ``kind`` is ``"memory"``.
        error_type: The name of what was raised; empty where the message is ringfence's or tells all.
        during: What of the plugin ran.
        refused_file: The file that the kernel refused, if that is what was raised.
    """

    seq: int
    kind: Literal["raised", "transient", "memory", "result", "not finite", "load", "refused"]
    message: _Text
    traceback: _Text
    used_bytes: int
    error_type: _Text = ""
    during: Phase = "call"
    refused_file: _Path = b""


FromWorker = Listening | Locked | Ready | Done | Large | Size | Fault


# host ↔ zygote


class Fork(_Message, frozen=True):
    """Fork a worker; its socket and its log pipe come along. The reply is ``Forked`` or ``Refused``.

    Attributes:
        for_optimizer: Import first what optimizers of torch need.
    """

    for_optimizer: bool = False


class Forked(_Message, frozen=True):
    """The worker's process id; a pidfd comes with the message."""

    pid: int


class Reap(_Message, frozen=True):
    """Collect a worker that has ended; the reply is ``Reaped``, ``StillEnding`` or ``Refused``, at once."""

    pid: int


class Reaped(_Message, frozen=True):
    """The end of a worker: exit code, or minus the number of the signal."""

    pid: int
    status: int


class StillEnding(_Message, frozen=True):
    """A worker has not ended yet; it can be collected later."""

    pid: int


class Refused(_Message, frozen=True):
    """A fork or a collection was not possible; the zygote goes on."""

    reason: str


ToZygote = Fork | Reap
FromZygote = Forked | Reaped | StillEnding | Refused

#: How tensors lie in a map: (name, dtype, shape, offset, nbytes).
LayoutSpecs = list[tuple[str, str, tuple[int, ...], int, int]]

encoder = msgspec.msgpack.Encoder()
to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
#: An outbox is larger than a message, and holds nothing else.
from_outbox: msgspec.msgpack.Decoder[Done] = msgspec.msgpack.Decoder(Done)
to_zygote: msgspec.msgpack.Decoder[ToZygote] = msgspec.msgpack.Decoder(ToZygote)
from_zygote: msgspec.msgpack.Decoder[FromZygote] = msgspec.msgpack.Decoder(FromZygote)
layout_specs: msgspec.msgpack.Decoder[LayoutSpecs] = msgspec.msgpack.Decoder(LayoutSpecs)

_T = TypeVar("_T")


def send(sock: socket.socket, message: _Message, fds: tuple[int, ...] = (), flags: int = 0) -> None:
    """Send one message, with file descriptors if any.

    Args:
        flags: Of the system call.

    Raises:
        MessageError: It is larger than ``MAX_MESSAGE_BYTES``.
        OSError: The other side is gone, or (``TimeoutError``, ``BlockingIOError``) does not read.
    """
    data = encoder.encode(message)
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageError(f"a {type(message).__name__} of {len(data)} bytes; at most {MAX_MESSAGE_BYTES}")
    if fds:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        sock.sendmsg([data], [rights], flags)
    else:
        sock.send(data, flags)


def receive(sock: socket.socket, decoder: msgspec.msgpack.Decoder[_T], buffer: bytearray) -> _T:
    """Receive one message without file descriptors; the kernel drops any that come along.

    Args:
        buffer: ``MAX_MESSAGE_BYTES`` long; reused so that a reply costs no allocation.

    Raises:
        EOFError: The other side has closed.
        MessageError: The bytes are too many or no such message.
        OSError: (``TimeoutError``) Nothing came in time.
    """
    size = sock.recv_into(buffer, 0, _WHOLE_SIZE)
    if size == 0:
        raise EOFError
    if size > len(buffer):
        raise MessageError(f"a message of {size} bytes; at most {len(buffer)}")
    return decode(decoder, memoryview(buffer)[:size])


def receive_with_fds(
    sock: socket.socket, decoder: msgspec.msgpack.Decoder[_T], max_fds: int, buffer: bytearray | None = None
) -> tuple[_T, list[int]]:
    """Receive one message and its file descriptors from a side that is trusted.

    Args:
        buffer: ``MAX_MESSAGE_BYTES`` long; reused so that a message costs no allocation.
    """
    buffer = bytearray(MAX_MESSAGE_BYTES) if buffer is None else buffer
    size, ancillary, flags, _ = sock.recvmsg_into(
        [buffer], socket.CMSG_SPACE(max_fds * _FD_BYTES), _CLOSE_ON_EXEC
    )
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += array.array("i", payload[: len(payload) - len(payload) % _FD_BYTES])
    if not size:
        raise EOFError
    try:
        if flags & _CUT_OFF:
            raise MessageError("a message was cut off")
        return decode(decoder, memoryview(buffer)[:size]), fds
    except MessageError:
        for fd in fds:
            os.close(fd)
        raise


def decode(decoder: msgspec.msgpack.Decoder[_T], data: bytes | memoryview) -> _T:
    """Decode one message.

    Raises:
        MessageError: It does not fit the schema.
    """
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        # The library quotes what it was given, terminal escapes included.
        why = "".join(c for c in str(error) if c.isprintable())[:_MAX_QUOTED]
        raise MessageError(f"not a message of this protocol: {why}") from error
