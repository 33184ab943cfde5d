"""A monitor that asks for things, in its own time."""

import time

from ringfence import passthrough


class Asking:
    """Asks for an evaluation after the third step and, once it was shown one, for a stop two steps later."""

    role = "monitor"
    forward = passthrough

    def __init__(self, delay_s=0.0):
        self.delay_s = delay_s
        self.seen_at = None

    def backward(self, updates, step, metrics=None):
        time.sleep(self.delay_s)
        if step.global_step == 2:
            step.ask("evaluate")
        if metrics and self.seen_at is None:
            self.seen_at = step.global_step
            step.log("loss", metrics["loss"])
            step.log("evaluated", metrics["step"])
        if self.seen_at is not None and step.global_step == self.seen_at + 2:
            step.ask("stop")
