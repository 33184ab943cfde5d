"""Optimizers that work in the place of their result, and those that return something odd of it."""

import math
import threading
import time

import torch

from ringfence import AnotherPass, passthrough

LATER_S = 0.05


class Descend:
    """A step of gradient descent, made where the result goes."""

    role = "optimizer"
    forward = passthrough

    def backward(self, parameters, gradients):
        point = parameters.draft()
        for name, gradient in gradients.items():
            point[name].sub_(gradient, alpha=0.1)
        return point


class Forgets(Descend):
    """Returns nothing of what it changes, and at the second step changes nothing."""

    def backward(self, parameters, gradients, step):
        if step.global_step == 0:
            super().backward(parameters, gradients)


class Exchange:
    """Returns parts of the place of the result under each other's names."""

    role = "optimizer"
    forward = passthrough

    def backward(self, parameters):
        point = parameters.draft()
        return {"first": point["second"], "second": point["first"]}


class Passes(Descend):
    def backward(self, parameters, gradients, step):
        point = super().backward(parameters, gradients)
        return AnotherPass(point) if step.pass_index == 0 else point


class Broken(Descend):
    """Fills what it returns with what is not finite, at one step."""

    def __init__(self, at: int = 0):
        self.at = at

    def backward(self, parameters, gradients, step):
        point = super().backward(parameters, gradients)
        if step.global_step == self.at:
            for tensor in point.values():
                tensor.view(-1)[-1] = math.nan
        return point


class Later(Descend):
    """Writes on where its result lay, long after its turn."""

    def backward(self, parameters, gradients):
        point = super().backward(parameters, gradients)
        threading.Thread(target=self._write, args=(point,), daemon=True).start()
        return point

    def _write(self, point):
        time.sleep(LATER_S)
        with torch.no_grad():
            for tensor in point.values():
                tensor.fill_(math.nan)
