"""Every way to fail, chosen by an option; each at the step that another option names."""

import ctypes
import math
import os
import sys
import time
from pathlib import Path

import torch

from ringfence import passthrough

KEEP = []


class Faulty:
    role = "gradient"
    forward = passthrough

    def __init__(self, fault: str = "", at: int = 0):
        self.fault = fault
        self.at = at

    def backward(self, gradients, step):
        if step.global_step == self.at:
            return getattr(self, f"do_{self.fault}")(gradients)
        return None

    def do_raise(self, gradients):
        raise RuntimeError("the plugin's own fault")

    def do_time_out(self, gradients):
        raise TimeoutError("the disk did not answer")

    def do_miss(self, gradients):
        Path("missing").read_bytes()

    def do_raise_wide(self, gradients):
        raise ValueError("\ud800" + "\U0001f525" * 20_000)

    def do_abort(self, gradients):
        os.abort()

    def do_write_input(self, gradients):
        next(iter(gradients.values())).fill_(1.0)

    def do_raise_in_torch(self, gradients):
        torch.nn.functional.smooth_l1_loss(torch.zeros(2), torch.zeros(2), beta="wide")

    def do_write_input_in_torch(self, gradients):
        torch.nn.init.ones_(next(iter(gradients.values())))

    def do_hang(self, gradients):
        while True:
            time.sleep(1.0)

    def do_rename_and_leak(self, gradients):
        ctypes.CDLL(None).prctl(15, b"x kB", 0, 0, 0)
        self.do_leak_torch(gradients)

    def do_leak_torch(self, gradients):
        while True:
            KEEP.append(torch.ones(4 * 1024 * 1024))

    def do_nan(self, gradients):
        result = gradients.clone()
        next(iter(result.values())).fill_(math.nan)
        return result

    def do_bad_bytes(self, gradients):
        self._socket().send(b"\xc1 not a message")
        time.sleep(60)

    def _worker(self):
        frame = sys._getframe()
        while frame is not None:
            worker = frame.f_locals.get("self")
            if type(worker).__name__ == "Worker":
                return worker
            frame = frame.f_back
        raise LookupError

    def _socket(self):
        return self._worker()._sock


class FaultyAugment:
    role = "augment"
    backward = passthrough

    def __init__(self, at: int = 0):
        self.at = at

    def forward(self, batch, step):
        if step.global_step == self.at:
            raise RuntimeError("the plugin's own fault")
        return batch.with_(inputs=batch.inputs + 1)


class ImportFault:
    role = "gradient"
    forward = backward = passthrough

    def __init__(self):
        raise ValueError("lr must be positive")


class SlowStart:
    role = "gradient"
    forward = backward = passthrough

    def __init__(self):
        time.sleep(60)


class WrongRole:
    role = "monitor"
    forward = backward = passthrough


class NoBackward:
    role = "gradient"
    forward = passthrough
