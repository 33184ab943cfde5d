"""Row 3: one sandboxed call beside what carries a call to another process without a sandbox."""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Protocol

import callee
import loky
import numpy as np
import ray
import torch
import torch.multiprocessing
from harness import Figure, Goal, Row, Table, in_turn, pin_threads, ratio
from torch import Tensor

from ringfence.hooks.types import StepInfo, TensorMap
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.interface import PluginSpec

_FOLDER = str(Path(__file__).resolve().parent.parent)
#: Size in bytes to calls in a row, of which the median counts.
_SIZES = {1 << 10: 400, 1 << 20: 40, 100 << 20: 9}
_NAMES = {1 << 10: "1 KB", 1 << 20: "1 MB", 100 << 20: "100 MB"}
_SMALL, _MIDDLE, _LARGE = _SIZES
_ALONE = "a message alone"
_OURS, _QUEUE, _COPY = "ringfence", "torch.multiprocessing queue", "one memcpy"
_SMALL_CALL_S, _TIMES_QUEUE, _TIMES_MEMCPY, _SAME = 25e-6, 20.0, 1.2, 2.0


class Peer(Protocol):
    """Another process that is asked to read a tensor, or to return half of it."""

    def read(self, values: Tensor) -> float:
        """Return the sum of the first and the last number."""

    def write(self, values: Tensor) -> Tensor:
        """Return half of ``values``."""


class _Ours:
    """Two plugins in sandboxes; tensors lie where the engine's do."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._plugins = {name: sandbox.start(self._spec(name)) for name in ("Reader", "Writer")}
        self._maps: dict[int, TensorMap] = {}
        self._arena = sandbox.arena
        self._steps = itertools.count()

    @staticmethod
    def _spec(name: str) -> PluginSpec:
        where = {"search_path": (_FOLDER,), "readable": (_FOLDER,)}
        return PluginSpec(name.lower(), "bench", "1.0", "callee", name, "gradient", **where)

    def _map(self, values: Tensor) -> TensorMap:
        known = self._maps.get(id(values))
        if known is None:
            known = self._maps[id(values)] = TensorMap.like({"values": values}, self._arena.allocate)
            known["values"].copy_(values)
        return known

    def read(self, values: Tensor) -> float:
        step = StepInfo(next(self._steps))
        self._plugins["Reader"].call("backward", {"gradients": self._map(values)}, step)
        return step.scalars["ends"]

    def write(self, values: Tensor) -> Tensor:
        step = StepInfo(next(self._steps))
        result = self._plugins["Writer"].call("backward", {"gradients": self._map(values)}, step)
        return result["values"]

    def in_plugin_s(self) -> float:
        """Return the time spent in the code of the one that writes, so far."""
        return self._plugins["Writer"].usage.seconds


class _Queue:
    def __init__(self) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self._asked, self._answered = context.Queue(), context.Queue()
        self._process = context.Process(target=callee.serve_queue, args=(self._asked, self._answered))
        self._process.start()

    def read(self, values: Tensor) -> float:
        self._asked.put(("read", values))
        return self._answered.get()

    def write(self, values: Tensor) -> Tensor:
        self._asked.put(("write", values))
        return self._answered.get()

    def close(self) -> None:
        self._asked.put(None)
        self._process.join(10)


class _Pipe:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=callee.serve_pipe, args=(theirs,))
        self._process.start()
        theirs.close()

    def read(self, values: Tensor) -> float:
        self._ask(b"read", values)
        return self._ours.recv()

    def write(self, values: Tensor) -> Tensor:
        self._ask(b"write", values)
        return torch.frombuffer(bytearray(self._ours.recv_bytes()), dtype=torch.float32)

    def _ask(self, kind: bytes, values: Tensor) -> None:
        self._ours.send_bytes(kind)
        self._ours.send_bytes(values.numpy())

    def close(self) -> None:
        self._ours.close()
        self._process.join(10)


class _Loky:
    def __init__(self) -> None:
        self._executor = loky.get_reusable_executor(max_workers=1)

    def read(self, values: Tensor) -> float:
        return self._executor.submit(callee.read_array, values.numpy()).result()

    def write(self, values: Tensor) -> Tensor:
        return torch.from_numpy(self._executor.submit(callee.write_array, values.numpy()).result())

    def close(self) -> None:
        self._executor.shutdown(wait=True)


class _Ray:
    def __init__(self) -> None:
        class Actor:
            """Works on what it is sent; sees ``callee`` by value, since Ray's workers have another path."""

            def read(self, values: np.ndarray) -> float:
                return float(values[0]) + float(values[-1])

            def write(self, values: np.ndarray) -> np.ndarray:
                return values * np.float32(0.5)

        ray.init(num_cpus=1, include_dashboard=False, object_store_memory=1 << 30, logging_level="ERROR")
        self._actor = ray.remote(Actor).remote()

    def read(self, values: Tensor) -> float:
        return ray.get(self._actor.read.remote(values.numpy()))

    def write(self, values: Tensor) -> Tensor:
        # What Ray returns lies in its own store and may not be written.
        return torch.from_numpy(ray.get(self._actor.write.remote(values.numpy())).copy())

    def close(self) -> None:
        ray.shutdown()


class _Message:
    """A message there and back, of the size of one of ours and by the same kind of socket."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _ECHO, str(theirs.fileno())], pass_fds=(theirs.fileno(),)
            )

    def exchange(self) -> None:
        self._ours.send(_MESSAGE)
        self._ours.recv(len(_MESSAGE))

    def close(self) -> None:
        self._ours.close()
        self._process.wait(10)


_MESSAGE = bytes(200)
_ECHO = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
while data := sock.recv(4096):
    sock.send(data)
"""


@contextmanager
def _peers() -> Iterator[dict[str, Peer]]:
    with ExitStack() as stack:
        peers: dict[str, Peer] = {_OURS: _Ours(stack.enter_context(Sandbox(plugins=2)))}
        for name, kind in {
            _QUEUE: _Queue,
            "multiprocessing pipe": _Pipe,
            "loky executor": _Loky,
            "Ray actor": _Ray,
        }.items():
            peers[name] = peer = kind()
            stack.callback(peer.close)
        yield peers


def measure(quick: bool) -> list[Table]:  # noqa: FBT001 - as all rows
    """Call every peer with tensors of three sizes, to read them and to have them changed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    pin_threads()
    rounds = 2 if quick else 7
    tensors = {size: torch.randn(size // 4, generator=torch.Generator().manual_seed(1)) for size in _SIZES}
    with _peers() as peers, closing(_Message()) as message:
        return [_read(peers, tensors, rounds, message), _write(peers, tensors, rounds)]


def _median_s(call: Callable[[], object], calls: int) -> float:
    return Figure(tuple(_timed(call) for _ in range(calls))).median


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _calls(size: int, rounds: int) -> int:
    return max(_SIZES[size] // (4 if rounds < 3 else 1), 1)  # noqa: PLR2004 - a quick look


def _read(peers: dict[str, Peer], tensors: dict[int, Tensor], rounds: int, message: _Message) -> Table:
    found: dict[int, dict[str, Figure]] = {}
    for size, values in tensors.items():
        for name, peer in peers.items():
            assert peer.read(values) == callee.ends(values), f"{name} read something else"
        sides = {
            name: lambda peer=peer, values=values, size=size: _median_s(
                lambda: peer.read(values), _calls(size, rounds)
            )
            for name, peer in peers.items()
        }
        sides[_ALONE] = lambda size=size: _median_s(message.exchange, _calls(size, rounds))
        found[size] = in_turn(sides, rounds)
    table = Table("A call that reads a tensor", ("", *(_NAMES[size] for size in _SIZES)))
    table.lines = [(name, *(found[size][name] for size in _SIZES)) for name in found[_SMALL]]
    ours = {size: found[size][_OURS].median for size in _SIZES}
    faster = ratio(found[_MIDDLE], _QUEUE, _OURS).median
    table.goals = [
        Goal("a small call takes at most 25 µs", ours[_SMALL], _SMALL_CALL_S, unit="s"),
        Goal("1 MB at least 20 x as fast as through the queue", faster, _TIMES_QUEUE, at_least=True),
        Goal("100 MB take no longer to read than 1 KB", ours[_LARGE] / ours[_SMALL], _SAME),
    ]
    table.plot = {name: [(size, found[size][name].median) for size in _SIZES] for name in peers}
    table.axes = ("bytes", "seconds a call")
    table.notes = [
        f"{_ALONE.capitalize()}: {len(_MESSAGE)} bytes from one Python process to another and back.",
        "It is the time to wake a process, twice; where a core is free ringfence's host is awake still.",
    ]
    return table


def _write(peers: dict[str, Peer], tensors: dict[int, Tensor], rounds: int) -> Table:
    found: dict[int, dict[str, Figure]] = {}
    ours: _Ours = peers[_OURS]  # type: ignore[assignment]
    for size, values in tensors.items():
        for name, peer in peers.items():
            assert torch.equal(peer.write(values), values * 0.5), f"{name} returned something else"
        sides = {
            name: lambda peer=peer, values=values, size=size: _median_s(
                lambda: peer.write(values), _calls(size, rounds)
            )
            for name, peer in peers.items()
        }
        sides[_OUTSIDE] = lambda values=values, size=size: _outside_s(ours, values, _calls(size, rounds))
        copy = torch.empty_like(values)
        sides[_COPY] = lambda values=values, copy=copy, size=size: _median_s(
            lambda: ctypes.memmove(copy.data_ptr(), values.data_ptr(), values.nbytes), _calls(size, rounds)
        )
        found[size] = in_turn(sides, rounds)
    table = Table("A call that returns a changed tensor", ("", *(_NAMES[size] for size in _SIZES)))
    table.lines = [(name, *(found[size][name] for size in _SIZES)) for name in found[_SMALL]]
    table.goals = [
        Goal("a small call takes at most 25 µs", found[_SMALL][_OURS].median, _SMALL_CALL_S, unit="s"),
        Goal(
            "1 MB at least 20 x as fast as through the queue",
            ratio(found[_MIDDLE], _QUEUE, _OURS).median,
            _TIMES_QUEUE,
            at_least=True,
        ),
        Goal(
            "100 MB, outside the plugin's own code, within 1.2 x of one memcpy",
            ratio(found[_LARGE], _OUTSIDE, _COPY).median,
            _TIMES_MEMCPY,
        ),
    ]
    table.plot = {name: [(size, found[size][name].median) for size in _SIZES] for name in found[_SMALL]}
    table.axes = ("bytes", "seconds a call")
    table.notes = ["Half of each number is computed on every side, and is part of the time but where told."]
    return table


_OUTSIDE = "ringfence, outside the plugin's code"


def _outside_s(ours: _Ours, values: Tensor, calls: int) -> float:
    def once() -> float:
        inside = ours.in_plugin_s()
        return _timed(lambda: ours.write(values)) - (ours.in_plugin_s() - inside)

    return Figure(tuple(once() for _ in range(calls))).median


ROW = Row(3, "One sandboxed call, beside other ways to another process", measure)
