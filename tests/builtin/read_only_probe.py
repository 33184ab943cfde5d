"""Step optimizers over gradients in read-only memory; run as a program, prints JSON.

A store into such memory is a SIGSEGV, so each case runs in a forked child. The
output maps import path to the cases that died or raised; an empty list means that
the class only read.
"""

from __future__ import annotations

import inspect
import json
import mmap
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ringfence.builtin.optim.algorithms import REFUSED, resolve

SHAPES = ((4, 3, 3, 3), (4,), (5, 8), (5,))
MATRICES = ((4, 3), (5, 8))
STEPS = 3


def read_only_gradients(shapes: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    """Return random float32 tensors whose memory the kernel does not let this process write."""
    values = [torch.rand(shape, generator=torch.Generator().manual_seed(7)) for shape in shapes]
    fd = os.memfd_create("gradients")
    os.write(fd, b"".join(value.numpy().tobytes() for value in values))
    memory = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    gradients, offset = [], 0
    for value in values:
        flat = torch.frombuffer(memory, dtype=torch.float32, count=value.numel(), offset=offset)
        gradients.append(flat.view(value.shape))
        offset += 4 * value.numel()
    return gradients


def cases(cls: type) -> Iterator[dict[str, Any]]:
    """Yield options: nothing, each switch alone, all switches; with and without decay and momentum."""
    arguments = inspect.signature(cls).parameters
    extras = {key: value for key, value in {"weight_decay": 0.1, "momentum": 0.9}.items() if key in arguments}
    switches = [
        name
        for name, argument in arguments.items()
        if isinstance(argument.default, bool) or name in {"foreach", "fused"}
    ]
    switches = [name for name in switches if name not in {"differentiable", "capturable"}]
    for base in ({}, extras):
        yield base
        for switch in switches:
            default = arguments[switch].default
            yield base | {switch: not default}
        exclusive = {"foreach", "fused"} & set(switches)
        yield base | {switch: True for switch in switches if switch not in exclusive}


def step(path: str, options: dict[str, Any]) -> None:
    """Make a few steps over read-only gradients."""
    beside = {key: options[key] for key in ("weight_decay",) if key in options}
    rest = {key: value for key, value in options.items() if key not in beside}
    algorithm = resolve(path, None, beside.get("weight_decay"), rest)
    shapes = MATRICES if path == "torch.optim.Muon" else SHAPES
    parameters = [nn.Parameter(torch.rand(shape)) for shape in shapes]
    optimizer = algorithm.build([{"params": parameters}])
    getattr(optimizer, "train", lambda: None)()
    for parameter, gradient in zip(parameters, read_only_gradients(shapes), strict=True):
        parameter.grad = gradient
    with torch.no_grad():
        for _ in range(STEPS):
            optimizer.step()


def survives(path: str, options: dict[str, Any]) -> bool:
    """Run one case in a child; True if it neither died nor raised anything but a refusal of its options."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            step(path, options)
            status = 0
        except ValueError:  # options that exclude each other are no write
            status = 0
        finally:
            os._exit(status)
    _, wait_status = os.waitpid(pid, 0)
    return wait_status == 0


def main(paths: list[str]) -> None:
    """Print path to failing cases."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # The first optimizer of a process imports torch's compiler; children inherit it from here.
    step("torch.optim.SGD", {})
    found = {}
    for path in paths:
        if path in REFUSED:
            continue
        module, _, name = path.rpartition(".")
        cls = getattr(__import__(module, fromlist=[name]), name)
        found[path] = [str(options) for options in cases(cls) if not survives(path, options)]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
