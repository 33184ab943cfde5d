"""End the process, in every way that a process can end."""

import ctypes
import mmap
import os
import signal
import sys
import threading

import inside


def segfault(aim, gradients, step):
    ctypes.string_at(0)


def abort(aim, gradients, step):
    os.abort()


def bus_error(aim, gradients, step):
    with open("mapped", "w+b") as file:
        file.write(bytes(mmap.PAGESIZE))
        file.flush()
        mapped = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        os.ftruncate(file.fileno(), 0)
        return mapped[0]


def divide_by_zero(aim, gradients, step):
    signal.raise_signal(signal.SIGFPE)


def illegal_instruction(aim, gradients, step):
    signal.raise_signal(signal.SIGILL)


def leave(aim, gradients, step):
    os._exit(0)


def leave_with_a_word(aim, gradients, step):
    print("about to leave", flush=True)
    os._exit(7)


def exit_system(aim, gradients, step):
    sys.exit(3)


def overflow_the_stack(aim, gradients, step):
    sys.setrecursionlimit(1 << 30)
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)

    @kind
    def deeper(depth):
        return again(depth + 1)

    again = kind(ctypes.cast(deeper, ctypes.c_void_p).value)
    again(0)


def kill_itself(aim, gradients, step):
    signal.pthread_kill(threading.get_ident(), signal.SIGKILL)


def reply_and_leave(aim, gradients, step):
    from ringfence.isolation.transport.messages import Done, send

    send(inside.worker()._sock, Done(inside.call().seq, "none", 0.0, 0.0, {}, None))
    os._exit(0)


def leave_mid_reply(aim, gradients, step):
    """Announce a large reply, write half of one, and end."""
    from ringfence.isolation.transport.messages import Large, send

    outbox = inside.outbox()
    outbox[: outbox.numel() // 2] = 0x91
    send(inside.worker()._sock, Large(inside.call().seq, outbox.numel()))
    os._exit(0)
