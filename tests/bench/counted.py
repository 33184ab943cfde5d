"""Count what a step of the engine and a call of a sandboxed plugin cost, in instructions.

Run by ``record_instructions`` under callgrind, which is told from here what to count. Not seen: what the
kernel does for a system call, and what the plugin's process does. Nothing of torch.optim is used: its
first step imports what takes minutes under valgrind.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import math
import mmap
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest import mock

import torch
from counted_plugins import descend
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ringfence import StepInfo, TensorMap
from ringfence.engine.config import TrainConfig
from ringfence.engine.data import Data, Dataset, epoch_order
from ringfence.engine.train import train
from ringfence.engine.trial import try_together
from ringfence.engine.weights import weights_sha256
from ringfence.isolation.host.calls import spin
from ringfence.isolation.host.grants.denials import Answerer
from ringfence.isolation.host.isolated_plugin import IsolatedPlugin
from ringfence.isolation.host.limits.worker_process import Process
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.manager import Hooks
from ringfence.plugins.stop_request import StopRequest

STEP = "a step of the engine, less one of a plain loop"
CALL = "a call of a sandboxed plugin, on the host's side"

WARM, COUNTED = 8, 16
FEW, MANY = 8, 40
_STEPS = WARM + COUNTED + 1
_SAMPLES, _BATCH, _CLASSES = 512, 16, 10

#: Numbers of callgrind.h.
_ZERO, _DUMP_AS, _START, _STOP = (0x43540000 + number for number in (1, 3, 4, 5))
#: ``long request(long args[6])``: how valgrind.h asks on x86-64; without valgrind it does nothing.
#: mov rax, rdi; xor edx, edx; rol rdi by 3, 13, 61 and 51; xchg rbx, rbx; mov rax, rdx; ret
_REQUEST = bytes.fromhex("4889f831d248c1c70348c1c70d48c1c73d48c1c7334887db4889d0c3")


class Callgrind:
    """Has callgrind count, and reads what this thread has cost."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._code.write(_REQUEST)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._code))
        self._request = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(address)
        # Made beforehand, so that what is counted holds as little of this as can be.
        self._arguments = {
            request: (ctypes.c_long * 6)(request, 0, 0, 0, 0, 0) for request in (_ZERO, _START, _STOP)
        }
        self._dumps = 0

    def _ask(self, arguments: ctypes.Array[ctypes.c_long]) -> None:
        self._request(ctypes.addressof(arguments))

    def start(self) -> None:
        """Count from here; at first what was run before is translated anew, which is not counted."""
        gc.collect()
        gc.disable()
        self._ask(self._arguments[_START])
        self._ask(self._arguments[_ZERO])

    def stop(self) -> int:
        """Count no more, and return the count."""
        count = self._read()
        self._ask(self._arguments[_STOP])
        gc.enable()
        return count

    def _read(self) -> int:
        self._dumps += 1
        name = ctypes.create_string_buffer(f"dump-{self._dumps}".encode())
        self._ask((ctypes.c_long * 6)(_DUMP_AS, ctypes.addressof(name), 0, 0, 0, 0))
        # One file for each thread, as the watchdog's would come at any time.
        (path,) = self._folder.glob(f"callgrind.{os.getpid()}.{self._dumps}-01")
        return next(
            int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("totals:")
        )


def model() -> nn.Module:
    """Return a model so small that the loop around it is all that counts."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, _CLASSES)).train()


def samples() -> tuple[Tensor, Tensor]:
    """Return what it learns from."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand((_SAMPLES, 16), generator=generator)
    return inputs, torch.randint(0, _CLASSES, (_SAMPLES,), generator=generator)


def plain(callgrind: Callgrind) -> tuple[float, str]:
    """Train with a plain loop; returns instructions a step and the hash of the weights."""
    net, (inputs, targets) = model(), samples()
    parameters = list(net.parameters())
    counted = 0
    for step in range(_STEPS):
        if step == WARM:
            callgrind.start()
        elif step == WARM + COUNTED:
            counted = callgrind.stop()
        begin = step * _BATCH % _SAMPLES
        if begin == 0:
            order = epoch_order(_SAMPLES, 0, step * _BATCH // _SAMPLES)
        indices = order[begin : begin + _BATCH]
        for parameter in parameters:
            parameter.grad = None
        cross_entropy(net(inputs.index_select(0, indices)), targets.index_select(0, indices)).backward()
        with torch.no_grad():
            descend(parameters, [p.grad for p in parameters if p.grad is not None])
    return counted / COUNTED, weights_sha256(net)


def engine(callgrind: Callgrind) -> tuple[float, str]:
    """Train the same with the engine and no plugin but the optimizer, which is trusted."""
    net, (inputs, targets) = model(), samples()
    step = counted = 0

    def between_steps() -> bool:
        nonlocal step, counted
        if step == WARM:
            callgrind.start()
        elif step == WARM + COUNTED:
            counted = callgrind.stop()
        step += 1
        return False

    stop = StopRequest()
    stop.is_made = between_steps  # type: ignore[method-assign]
    data = Data(Dataset(inputs, targets, _CLASSES), Dataset(inputs[:1], targets[:1], _CLASSES))
    config = TrainConfig(
        steps=_STEPS, batch_size=_BATCH, eval_every=10**9, checkpoint_every=10**9, device="cpu"
    )
    spec = PluginSpec(
        "descent", "counted", "1", "counted_plugins", "Descent", "optimizer", isolation="trusted", threads=1
    )
    with closing(Hooks(0, None)) as hooks:
        hooks.register(LocalPlugin(spec))
        train(try_together(net, data, config), hooks, stop=stop)
    return counted / COUNTED, weights_sha256(net)


@contextmanager
def _without_what_valgrind_lacks() -> Iterator[None]:
    """Do without two system calls that valgrind does not know; neither is made by a call of a plugin.

    A plugin's refused attempts are not heard, so that the kernel refuses them by itself; processes are killed
    by their numbers.
    """

    def unheard(_: Answerer, listener: int, *__: object) -> None:
        os.close(listener)

    def kill(process: Process) -> None:
        if not process.reaped:
            os.kill(process.pid, signal.SIGKILL)

    with mock.patch.object(Answerer, "watch", unheard), mock.patch.object(Process, "kill", kill):
        yield


def call(callgrind: Callgrind) -> float:
    """Return what a call of a sandboxed plugin costs on the host's side, with 1 KB of gradients."""
    gradients = TensorMap.like({"weight": torch.ones(16, 15), "bias": torch.ones(16)})
    code = str(Path(__file__).resolve().parent)
    spec = PluginSpec(
        "quiet",
        "counted",
        "1",
        "counted_plugins",
        "Quiet",
        "gradient",
        search_path=(code,),
        readable=(code,),
        start_deadline_s=300.0,
        deadline_s=120.0,
    )
    # How long it is spun for a reply depends on what else runs here.
    nobody_spins = mock.patch.object(spin, "runnable", return_value=math.inf)
    with _without_what_valgrind_lacks(), nobody_spins, Sandbox() as sandbox:
        plugin = sandbox.start(spec)
        for number in range(WARM):
            plugin.call("backward", {"gradients": gradients}, StepInfo(number))
        steps = iter(range(WARM, WARM + FEW + MANY))
        few, many = (_cost(callgrind, plugin, gradients, steps, calls) for calls in (FEW, MANY))
    # What asking for the count costs is in both.
    return (many - few) / (MANY - FEW)


def _cost(
    callgrind: Callgrind, plugin: IsolatedPlugin, gradients: TensorMap, steps: Iterator[int], calls: int
) -> int:
    given = [StepInfo(step) for step in itertools.islice(steps, calls)]
    callgrind.start()
    for step in given:
        plugin.call("backward", {"gradients": gradients}, step)
    return callgrind.stop()


def main() -> None:
    """Count all, and print it."""
    torch.set_num_threads(1)
    callgrind = Callgrind(Path(sys.argv[1]))
    of_plain, expected = plain(callgrind)
    of_engine, trained = engine(callgrind)
    assert trained == expected
    found = {
        "processor": torch.backends.cpu.get_cpu_capability(),
        STEP: round(of_engine - of_plain),
        CALL: round(call(callgrind)),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
