"""Plugins that are busy when they are to end, and would rather not."""

import atexit
import signal
import time

from ringfence import passthrough


class Spins:
    """Computes for ever, keeps signals off and has much to do at exit."""

    role = "gradient"
    forward = passthrough

    def __init__(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        atexit.register(time.sleep, 600)

    def backward(self, gradients):
        while True:
            sum(range(1000))


class Watches:
    """A monitor that never comes to an end."""

    role = "monitor"

    def forward(self, loss):
        time.sleep(600)

    def backward(self, parameters):
        time.sleep(600)
