"""Take all the processor time there is, from many threads, and go on after the call is over."""

import hashlib
import threading

THREADS = 8


def in_the_background(aim, gradients, step):
    for _ in range(THREADS):
        threading.Thread(target=_spin, daemon=True).start()


def _spin():
    data = bytes(1 << 20)
    while True:
        hashlib.sha256(data).digest()  # without Python's lock


if __name__ == "__main__":
    in_the_background(None, None, None)
    threading.Event().wait()
