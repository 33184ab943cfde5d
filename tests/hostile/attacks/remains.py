"""Leave something behind: threads, children that nobody collects, a process without its main thread."""

import ctypes
import os
import threading
import time

_NR_EXIT = 60 if os.uname().machine == "x86_64" else 93
THREADS, CHILDREN = 20, 10
#: Bounded, for the sake of whoever has no sandbox.
BOMB = 3000


def threads(aim, gradients, step):
    for _ in range(THREADS):
        threading.Thread(target=time.sleep, args=(600,)).start()


def zombies(aim, gradients, step):
    _children(lambda: None)


def orphans(aim, gradients, step):
    _children(_outlive)


def _children(do):
    """Fork as many as may be; each does something and ends, and nobody collects it."""
    for _ in range(CHILDREN):
        try:
            pid = os.fork()
        except OSError:
            continue
        if pid == 0:
            do()
            os._exit(0)


def _outlive():
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
    time.sleep(60)


def no_main_thread(aim, gradients, step):
    """End the main thread alone; the others go on, and memory is told of the main thread only."""
    threads(aim, gradients, step)
    ctypes.CDLL(None).syscall(_NR_EXIT, 0)


def thread_bomb(aim, gradients, step):
    """Start threads for as long as it goes."""
    threading.stack_size(1 << 16)
    for _ in range(BOMB):
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def stubborn_thread_bomb(aim, gradients, step):
    """The same, and go on trying once it no longer goes."""
    threading.stack_size(1 << 16)
    started = 0
    while started < BOMB:
        try:
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
            started += 1
        except RuntimeError:
            time.sleep(0.001)


def native_thread_bomb(aim, gradients, step):
    """Threads that Python knows nothing of."""
    libc = ctypes.CDLL(None)
    attributes, made = ctypes.create_string_buffer(64), ctypes.c_ulong()
    libc.pthread_attr_init(attributes)
    libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(1 << 16))
    started = 0
    while started < BOMB:
        ended = libc.pthread_create(ctypes.byref(made), attributes, libc.sleep, ctypes.c_void_p(600))
        started += ended == 0
        time.sleep(0.001 if ended else 0)
