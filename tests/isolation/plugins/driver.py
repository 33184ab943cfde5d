"""A plugin that goes for the GPU: its device files, its driver, and torch's way to it."""

import contextlib
import ctypes
import os
from pathlib import Path

import torch

from ringfence import passthrough

_NO_SUCH_LIBRARY = -1


def opened():
    """Return how many of the driver's device files can be opened."""
    found = 0
    # A folder that may not be listed tells no names: these two every driver has.
    for path in {*Path("/dev").glob("nvidia*"), Path("/dev/nvidiactl"), Path("/dev/nvidia0")}:
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDWR))
            found += 1
    return found


def initialised():
    """Return what the driver answers to being initialised: 0 if it is then at one's service."""
    try:
        return ctypes.CDLL("libcuda.so.1").cuInit(0)
    except OSError:
        return _NO_SUCH_LIBRARY


class Driver:
    role = "gradient"
    forward = passthrough

    def backward(self, gradients, step):
        step.log("opened", opened())
        step.log("initialised", initialised())
        step.log("devices", torch.cuda.device_count())
        step.log("available", int(torch.cuda.is_available()))
