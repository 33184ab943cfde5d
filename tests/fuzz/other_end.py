"""The worker's end of the socket in an attacker's hands: any bytes, against the host's real code.

Nothing of the host is replaced: ``IsolatedPlugin``, ``WorkerGroup``, ``Channel``,
``CallMemory`` and ``WorkerMemory`` run as in training. Only the process behind the socket
is missing, since whoever uses this class answers in its place. Replies are sent
before they are asked for, so that no second thread is needed.
"""

import contextlib
import inspect
import os
import socket
import subprocess
import tempfile
from pathlib import Path

import msgspec
import torch

from ringfence.hooks import specs
from ringfence.hooks.errors import PluginError
from ringfence.hooks.role import METHODS
from ringfence.hooks.types import Batch, StepInfo, TensorMap
from ringfence.isolation.host.calls.channel import Channel
from ringfence.isolation.host.isolated_plugin import IsolatedPlugin
from ringfence.isolation.host.limits.scratch_folder import remove_tree
from ringfence.isolation.host.limits.watchdog import Watchdog
from ringfence.isolation.host.limits.worker_process import Process
from ringfence.isolation.policy.layer_status import LAYER_PROBES, LAYERS, LayerStatus
from ringfence.isolation.transport.messages import Done, Locked, Ready, Size, encoder
from ringfence.isolation.transport.shared_memory import Arena
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.result_kinds import kinds_of
from ringfence.plugins.stop_request import StopRequest

#: Role and method to all the arguments of its hook: a plugin under attack takes them.
HOOKS = {
    (role.name, name): tuple(inspect.signature(method.hook).parameters)
    for role in specs.ROLES.values()
    for name, method in role.methods.items()
}
ROLES = tuple(specs.ROLES)

#: A call that gets no reply ends after this.
DEADLINE_S = 0.05
#: The longest datagram, of three, for which a socket has room.
_LONGEST = 66_000
_HOST_LAYERS = ("cgroup", "watchdog", "messages")
#: Types of message whose second item is the number of the request.
_NUMBERED = ("Done", "Large", "Size", "Fault")

LOCKED = Locked(
    [LayerStatus(name, "active", "as applied") for name in LAYERS if name not in _HOST_LAYERS],
    {probe: True for probes in LAYER_PROBES.values() for probe in probes},
)


def arguments():
    """Return one of everything that a hook may be given."""
    generator = torch.Generator().manual_seed(7)
    tensors = {"weight": torch.randn(4, 3, generator=generator), "bias": torch.randn(4, generator=generator)}
    gradients, parameters, updates = (TensorMap.like(tensors) for _ in range(3))
    for name, value in tensors.items():
        for each in (gradients, parameters, updates):
            each[name].copy_(value)
    inputs, targets = torch.rand(4, 1, 2, 2, generator=generator), torch.tensor([0, 2, 1, 0])
    return {
        "batch": Batch(inputs, targets, torch.arange(4), 3),
        "outputs": torch.randn(4, 3, generator=generator),
        "loss": 0.5,
        "losses": torch.rand(4, generator=generator),
        "gradients": gradients,
        "parameters": parameters,
        "metrics": {"loss": 0.5, "step": 3.0},
        "updates": updates,
    }


def ready(role):
    """Return what an honest plugin of ``role`` says when it is loaded."""
    accepts = {method: HOOKS[role, method] for method in METHODS}
    return Ready(accepts, keeps_state=True)


class Ground:
    """What a sandbox gives a plugin's stand-in, without a zygote.

    Attributes:
        first: What the next worker answers to ``Open`` and ``Start``.
        theirs: The attacker's end of the newest socket.
    """

    def __init__(self):
        self.arena = Arena()
        self.watchdog = Watchdog()
        self._temporary = tempfile.TemporaryDirectory(prefix="fuzz-")
        self.folder = Path(self._temporary.name)
        self.canary = self.folder / "canary"
        self.skip_layers = ()
        self.stop = StopRequest()
        self.first = ()
        self.theirs = None
        # It has ended, and is not collected: a process that can be looked at, signalled and never harmed.
        self._gone = subprocess.Popen(["/bin/true"], stdin=subprocess.DEVNULL)
        os.waitid(os.P_PID, self._gone.pid, os.WEXITED | os.WNOWAIT)

    def fork(self, **_):
        log, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.close(write)
        process = Process(self._gone.pid, os.pidfd_open(self._gone.pid), log)
        return process, self.pair()

    def pair(self):
        """Return the host's end of a new socket on which ``first`` waits already."""
        if self.theirs is not None:
            self.theirs.close()
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.theirs.setblocking(False)
        for data in self.first:
            self.theirs.send(data[:_LONGEST])
        return ours

    def reap(self, process):
        return 0

    def remove_scratch(self, folder):
        remove_tree(Path(folder))

    def close(self):
        self.watchdog.close()
        self.arena.close()
        self.theirs.close()
        self._gone.wait()
        self._temporary.cleanup()


class Attacked:
    """A stand-in of one role, and its worker's end of the socket.

    Args:
        role: Of the plugin.
        first: Answers to ``Open`` and ``Start``; those of an honest worker by default.
    """

    def __init__(self, role, first=None, ground=None):
        self.role = role
        self._own = ground is None
        self.ground = ground or Ground()
        self.arguments = arguments()
        self._seq = self._step = 0
        honest = (encoder.encode(LOCKED), encoder.encode(ready(role)))
        self.ground.first = honest if first is None else first
        spec = PluginSpec("odd", "tests", "1.0", "odd", "Odd", role, deadline_s=DEADLINE_S)
        try:
            self.plugin = IsolatedPlugin(spec, self.ground)
        except BaseException:
            self.close()
            raise
        self.ground.first = ()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        if hasattr(self, "plugin"):
            self.plugin.close()
        if self._own:
            self.ground.close()

    @property
    def worker(self):
        return self.plugin._workers[0]

    def call(self, method, *replies, fill=b"", outbox=b""):
        """Have the host call ``method`` when ``replies`` are what it will read; return what came of it.

        Args:
            replies: Bytes; the number of the request takes the place of theirs where they have one.
            fill: Repeated over the result region.
            outbox: Put into the outbox.

        Returns:
            ``("accepted", result)``, or the error's type and the error.
        """
        slot = self.worker.slots[0]
        slot.place_result(kinds_of(self.plugin.spec.role_info)[method], self.arguments)
        spread(slot._result, fill)
        place(slot.outbox, outbox)
        self._step += 1
        step = StepInfo(self._step, steps_total=10**6, seed=3)
        return self._drive(replies, 1, lambda: self._observed(method, step))

    def save(self, *replies, state=b""):
        """Have the host ask for the state when ``replies`` are what it will read."""
        worker = self.worker
        region = worker.state_region
        if state and (region is None or region.nbytes < len(state)):
            worker.state_region = worker.exchange.new_region(len(state), writable=True)
        place(worker.state_region, state)
        return self._drive(replies, 2, self.plugin.state_dict)

    def honest_save(self, state):
        """Have the host fetch ``state`` from a worker that says nothing wrong beside it."""
        done = Done(0, "none", 0.0, 0.0, {}, None)
        return self.save(encoder.encode(Size(0, len(state))), encoder.encode(done), state=state)

    # inside

    def _observed(self, method, step):
        if not self.plugin.spec.role_info.observes:
            return self.plugin.call(method, self.arguments, step)
        if not self.plugin.post(method, self.arguments, step):
            raise AssertionError("an idle monitor was busy")
        return self.plugin.drain()

    def _drive(self, replies, requests, run):
        for number, reply in enumerate(replies, start=1):
            reply = numbered(reply, self._seq + min(number, requests))  # noqa: PLW2901
            # The kernel takes no longer one, and drops none silently: without a reader it refuses.
            with contextlib.suppress(BlockingIOError):
                self.ground.theirs.send(reply[:_LONGEST])
        self._seq += requests
        try:
            result = run()
        except PluginError as error:
            self._renew()
            return type(error).__name__, error
        self._drain()
        if len(replies) != requests:
            self._renew()
        return "accepted", result

    def _drain(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                self.ground.theirs.recv(1 << 16)

    def _renew(self):
        """Put a new channel in the place of one that was rejected; a new process would take longer."""
        worker, old = self.worker, self.worker.channel
        old._sock.close()
        worker.channel = worker.exchange._channel = Channel(
            old.plugin,
            self.ground.pair(),
            old.process,
            old._account,
            old.limit_bytes,
            old._reap,
            old._oom_kills,
        )
        self.plugin._posted.clear()
        self.plugin._refused_step = -1
        self._seq = 0


def numbered(data, seq):
    """Return a message with ``seq`` in place of the number 0, if it is one that has a number.

    A mutation that also had to guess the number would hardly ever get past it.
    """
    try:
        message = msgspec.msgpack.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return data
    if isinstance(message, list) and len(message) > 1 and message[0] in _NUMBERED and message[1] == 0:
        return msgspec.msgpack.encode([message[0], seq, *message[2:]])
    return data


def place(region, data):
    """Put ``data`` at the beginning of a region."""
    if region is not None and data:
        data = data[: region.nbytes]
        region.buffer[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)


def spread(region, data):
    """Repeat ``data`` over a region."""
    if region is not None and data:
        copies = data * (region.nbytes // len(data) + 1)
        place(region, copies)
