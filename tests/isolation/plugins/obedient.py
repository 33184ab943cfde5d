"""Plugins that do what their hooks ask, to show what crosses the boundary."""

import os
import random
import sys
import threading

import numpy as np
import torch

from ringfence import (
    AnotherPass,
    Histogram,
    LossScale,
    LossTerm,
    Report,
    map_tensors,
    passthrough,
    tensors_of,
)


class Brighten:
    role = "augment"
    backward = passthrough

    def __init__(self, by: float = 0.5):
        self.by = by

    def forward(self, batch, step):
        noise = torch.rand(batch.inputs.shape, generator=step.generator())
        step.log("mean", float(noise.mean()))
        return batch.with_(inputs=batch.inputs + self.by * noise, targets=batch.soft_targets())


class GlobalRandom:
    """Uses every global generator there is; repeatable all the same."""

    role = "augment"
    backward = passthrough

    def forward(self, batch, step):
        amount = torch.rand(()) + float(np.random.rand()) + random.random()  # noqa: NPY002, S311
        return batch.with_(inputs=batch.inputs + amount)


class Halve:
    role = "gradient"

    def forward(self, batch, outputs, loss, step):
        return LossTerm(0.5 * float((outputs**2).mean()), outputs / outputs.numel())

    def backward(self, gradients, step):
        halved = gradients.clone()
        for gradient in halved.values():
            gradient.mul_(0.5)
        return halved


class Doubled:
    role = "gradient"
    backward = passthrough

    def forward(self, loss):
        return LossScale(2.0)


class HalveIntoNew:
    """Returns tensors of its own instead of the copy that lies where the host reads."""

    role = "gradient"
    forward = passthrough

    def backward(self, gradients, step):
        return {name: gradient * 0.5 for name, gradient in gradients.items()}


class Momentum:
    role = "optimizer"
    forward = passthrough

    def __init__(self, lr: float = 0.1):
        self.lr = lr
        self.velocity = {}

    def backward(self, parameters, gradients, step):
        new = parameters.clone()
        for name, gradient in gradients.items():
            velocity = self.velocity.get(name, torch.zeros_like(gradient)) * 0.9 + gradient
            self.velocity[name] = velocity
            new[name].sub_(velocity, alpha=self.lr * step.lr_factor)
        return new

    def state_dict(self):
        return {"velocity": self.velocity}

    def load_state_dict(self, state):
        self.velocity = state["velocity"]


class TwoPasses(Momentum):
    def backward(self, parameters, gradients, step):
        if step.pass_index == 0:
            return AnotherPass({name: tensor + 1 for name, tensor in parameters.items()})
        return super().backward(parameters, gradients, step)


class Watcher:
    role = "monitor"

    def forward(self, batch, outputs, loss, step):
        return Report({"loss": loss, "rows": float(len(batch))})

    def backward(self, parameters, updates, gradients, step):
        histogram = Histogram([1.0] * 8, list(range(9)))
        image = torch.full((32, 32, 3), 7, dtype=torch.uint8)
        norm = float(sum(update.norm() for update in updates.values()))
        return Report({"updates": norm}, {"weights": histogram}, {"picture": image})


class Verbose:
    """Reports more than fits into a message."""

    role = "monitor"
    forward = passthrough

    def backward(self, step):
        names = [f"layer{number:03d}" for number in range(300)]
        histograms = {name: Histogram([0.5] * 69, [float(x) for x in range(70)]) for name in names}
        return Report(dict.fromkeys(names, 1.0), histograms)


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class Inspect:
    """Tells what it sees of the machine, through the numbers that it may log."""

    role = "gradient"
    forward = passthrough

    def backward(self, gradients, step):
        step.log("environment", len(os.environ))
        step.log("pid", os.getpid())
        step.log("threads", torch.get_num_threads())
        step.log("canary", float("RINGFENCE_ENV_CANARY" in os.environ))
        step.log("live_threads", threading.active_count())
        step.log("open_fds", sum(is_open(fd) for fd in range(1024)))
        step.log("shared", float("ringfence.isolation.host.isolated_plugin" in sys.modules))


class Average:
    """Keeps a copy of the parameters over calls, and makes several in one."""

    role = "optimizer"
    forward = passthrough

    def __init__(self):
        self.slow = None

    def backward(self, parameters, gradients, step):
        if self.slow is None:
            self.slow = parameters.clone()
        first, second = parameters.clone(), parameters.clone()
        for name, gradient in gradients.items():
            first[name].add_(100)
            second[name].sub_(gradient)
        step.log("slow", float(self.slow["weight"].sum()))
        return second


class Transposed:
    """Returns tensors of other strides and swapped places."""

    role = "gradient"
    forward = passthrough

    def backward(self, gradients, step):
        copy = gradients.clone()
        return {"a": copy["b"], "b": copy["a"], "square": copy["square"].t()}


class Reads:
    """Raises what a closed socket would."""

    role = "gradient"
    forward = passthrough

    def backward(self, gradients, step):
        raise EOFError("No data left in file")


class DrawsAtStart:
    role = "gradient"
    forward = passthrough

    def __init__(self):
        self.drawn = float(torch.rand(()))

    def backward(self, gradients, step):
        step.log("drawn", self.drawn)


class Scatters:
    """Adds many numbers up in few places, as the backward pass of a look-up does."""

    role = "gradient"
    forward = passthrough

    def backward(self, gradients, step):
        generator = torch.Generator().manual_seed(1)
        places = torch.randint(0, 50, (200_000,), generator=generator)
        numbers = torch.randn(200_000, 8, generator=generator)
        sums = torch.zeros(50, 8).index_put_((places,), numbers, accumulate=True)
        step.log("sum", float(sums.double().sum()))


class OfTrees:
    """Changes every number of a tree, and each of its whole numbers by one class."""

    role = "augment"
    backward = passthrough
    takes_trees = True

    def forward(self, batch, step):
        def changed(tensor):
            if tensor.is_floating_point():
                return tensor * 0.5 + float(step.global_step)
            return 1 - tensor if tensor.dtype == torch.int64 else ~tensor

        inputs, targets = (map_tensors(changed, tree) for tree in (batch.inputs, batch.targets))
        # The order of a dict is not the plugin's to choose.
        inputs = dict(reversed(inputs.items()))
        step.log("tensors", len(tensors_of(batch.inputs)))
        return batch.with_(inputs=inputs, targets=targets)


class OutputsOfTrees:
    role = "gradient"
    backward = passthrough
    takes_trees = True

    def forward(self, batch, outputs, loss):
        value = sum(float(tensor.double().sum()) for tensor in tensors_of(outputs))
        return LossTerm(value, map_tensors(torch.ones_like, outputs))


class OfOtherForm:
    """Returns what it should not: a key too many, a shape too short, a list in place of a dict."""

    role = "augment"
    backward = passthrough
    takes_trees = True

    def __init__(self, how: str):
        self.how = how

    def forward(self, batch):
        inputs = dict(batch.inputs)
        if self.how == "key":
            inputs["more"] = inputs["ids"]
        elif self.how == "shape":
            inputs["ids"] = inputs["ids"][:, 1:]
        elif self.how == "dtype":
            inputs["ids"] = inputs["ids"].float()
        elif self.how == "list":
            inputs = list(inputs.values())
        elif self.how == "not finite":
            inputs["parts"] = [inputs["parts"][0] / 0, inputs["parts"][1]]
        return batch.with_(inputs=inputs)
