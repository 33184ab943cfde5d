"""Never answer: in ways that a signal, or another thread of Python, could not end either."""

import ctypes
import os
import re
import signal
import threading
import time


def spin(aim, gradients, step):
    while True:
        pass


def sleep(aim, gradients, step):
    while True:
        time.sleep(60)


def hold_the_interpreter(aim, gradients, step):
    # PyDLL keeps Python's lock: no other thread of this process runs.
    ctypes.PyDLL(None).sleep(600)


def backtrack(aim, gradients, step):
    re.match(r"(a+)+$", "a" * 60 + "b")


def deadlock(aim, gradients, step):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def wait_for_itself(aim, gradients, step):
    reader, _ = os.pipe()
    os.read(reader, 1)


def stop_itself(aim, gradients, step):
    os.kill(os.getpid(), signal.SIGSTOP)


def ignore_signals(aim, gradients, step):
    for number in range(1, 65):
        if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
    spin(aim, gradients, step)


def become_a_daemon(aim, gradients, step):
    """Leave session, parent and terminal; where that is refused, stay for ever."""
    libc = ctypes.CDLL(None)
    libc.prctl(1, 0, 0, 0, 0)
    libc.prctl(15, b"kworker/0:1", 0, 0, 0)
    try:
        pid = os.fork()
    except OSError:
        ignore_signals(aim, gradients, step)
    if pid == 0:
        libc.prctl(1, 0, 0, 0, 0)
        os.setsid()
        time.sleep(60)
        os._exit(0)
