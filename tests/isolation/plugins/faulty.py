"""Every way to fail, chosen by an option; each at the step that another option names."""

import ctypes
import math
import os
import signal
import sys
import threading
import time

import numpy as np
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

    def do_exit(self, gradients):
        sys.exit(3)

    def do_os_exit(self, gradients):
        print("about to leave", flush=True)
        os._exit(7)

    def do_abort(self, gradients):
        os.abort()

    def do_segfault(self, gradients):
        ctypes.string_at(0)

    def do_write_input(self, gradients):
        next(iter(gradients.values())).fill_(1.0)

    def do_hang(self, gradients):
        while True:
            time.sleep(0.01)

    def do_ignore_signals(self, gradients):
        for number in range(1, 65):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                signal.signal(number, signal.SIG_IGN)
        while True:
            pass

    def do_many_files(self, gradients):
        number = 0
        while True:
            number += 1
            with open(f"file-{number}", "w"):  # noqa: PTH123 - as a plugin might
                pass

    def do_many_bytes(self, gradients):
        number = 0
        while True:
            number += 1
            with open(f"file-{number}", "wb") as file:  # noqa: PTH123 - as a plugin might
                file.write(b"x" * (1 << 20))

    def do_rename_and_leak(self, gradients):
        ctypes.CDLL(None).prctl(15, b"x kB", 0, 0, 0)
        self.do_leak_torch(gradients)

    def do_many_threads(self, gradients):
        while True:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

    def do_flood(self, gradients):
        line = "x" * 1000
        for _ in range(20_000):
            print(line)

    def do_leak_torch(self, gradients):
        while True:
            KEEP.append(torch.ones(4 * 1024 * 1024))

    def do_leak_numpy(self, gradients):
        while True:
            KEEP.append(np.ones(4 * 1024 * 1024, dtype=np.float32))

    def do_leak_python(self, gradients):
        while True:
            KEEP.append(list(range(100_000)))

    def do_wrong_shape(self, gradients):
        return {name: torch.zeros(3) for name in gradients}

    def do_wrong_dtype(self, gradients):
        return {name: gradient.double() for name, gradient in gradients.items()}

    def do_nan(self, gradients):
        result = gradients.clone()
        next(iter(result.values())).fill_(math.nan)
        return result

    def do_missing_name(self, gradients):
        return dict(list(gradients.items())[1:])

    def do_wrong_type(self, gradients):
        return 7

    def do_bad_bytes(self, gradients):
        self._socket().send(b"\xc1 not a message")
        time.sleep(60)

    def do_huge_message(self, gradients):
        self._socket().send(b"x" * 100_000)
        time.sleep(60)

    def do_other_reply(self, gradients):
        # A well-formed answer to a question that nobody asked.
        from ringfence.isolation.protocol import Done, send

        send(self._socket(), Done(999, "none", 0.0, 0.0, {}, None))
        time.sleep(60)

    def do_lying_outbox(self, gradients):
        from ringfence.isolation.protocol import Large, send

        send(self._socket(), Large(self._seq(), 1 << 62))
        time.sleep(60)

    def _worker(self):
        frame = sys._getframe()
        while frame is not None:
            worker = frame.f_locals.get("self")
            if type(worker).__name__ == "Worker":
                return worker
            frame = frame.f_back
        raise LookupError

    def _seq(self):
        frame = sys._getframe()
        while "call" not in frame.f_locals:
            frame = frame.f_back
        return frame.f_locals["call"].seq

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
