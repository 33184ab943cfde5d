"""Plugins that break one rule each; ``test_faulty.py`` says which test of the kit finds it."""

import json
import os
import random
import time
from pathlib import Path
from typing import ClassVar

import torch

from ringfence import AnotherPass, LossTerm, Report, passthrough

try:
    from ringfence import map_tensors, tensors_of
except ImportError:  # before 0.4, where there were no trees
    map_tensors = tensors_of = None


class Sound:
    """Breaks none; the control."""

    role = "gradient"

    def forward(self, outputs):
        return LossTerm(outputs.square().mean().item(), 2 * outputs / outputs.numel())

    def backward(self, gradients, step):
        step.log("size", len(gradients))
        return {name: 2 * gradient for name, gradient in gradients.items()}


class KnowsTrees:
    """Breaks none, whatever the form of the outputs."""

    role = "gradient"
    takes_trees = True

    def forward(self, outputs):
        numbers = [tensor for tensor in tensors_of(outputs) if tensor.is_floating_point()]
        value = sum(float(tensor.double().sum()) for tensor in numbers)
        return LossTerm(value, map_tensors(torch.ones_like, outputs))

    def backward(self, gradients):
        return {name: 2 * gradient for name, gradient in gradients.items()}


class SaysTrees:
    """Says that it knows dicts and lists, and does not."""

    role = "augment"
    backward = passthrough
    takes_trees = True

    def forward(self, batch):
        return batch.with_(inputs=1 - batch.inputs)


class SeesItsSandbox(KnowsTrees):
    """Comes to other results without its sandbox, where there is more around it."""

    def forward(self, outputs):
        return LossTerm(len(os.environ), map_tensors(torch.zeros_like, outputs))


class Learns:
    """Augments in step with the loop, since it learns; keeps what it has learnt."""

    role = "augment"

    def __init__(self):
        self._mean = 0.0

    def forward(self, batch):
        return batch.with_(inputs=(batch.inputs * (1 - self._mean / 100)).clamp(0, 1))

    def backward(self, losses):
        self._mean = losses.mean().item()

    def state_dict(self):
        return {"mean": self._mean}

    def load_state_dict(self, state):
        self._mean = state["mean"]


class LooksTwice:
    """Asks for a second pass."""

    role = "optimizer"
    forward = passthrough

    def backward(self, parameters, gradients, step):
        moved = {name: value.clone() for name, value in parameters.items()}
        for name, gradient in gradients.items():
            moved[name] -= 0.1 * gradient
        return AnotherPass(moved) if step.pass_index == 0 else moved


class DrawsAnywhere(Sound):
    """Draws from a generator that nobody seeds."""

    def __init__(self):
        self._random = random.SystemRandom()

    def backward(self, gradients):
        return {name: gradient * self._random.random() for name, gradient in gradients.items()}


class CountsBatches:
    """Does to a batch what depends on those that this worker had before."""

    role = "augment"
    backward = passthrough

    def __init__(self):
        self._seen = 0

    def forward(self, batch):
        self._seen += 1
        return batch.with_(inputs=batch.inputs / self._seen)


class Forgets(Sound):
    """Keeps an average, and no state."""

    def __init__(self):
        self._average = {}

    def backward(self, gradients):
        for name, gradient in gradients.items():
            self._average[name] = 0.5 * self._average.get(name, 0) + gradient
        return dict(self._average)


class SavesTooLittle(Forgets):
    """Keeps two things, and saves one."""

    def backward(self, gradients):
        self._calls = getattr(self, "_calls", 0) + 1
        return {name: gradient / self._calls for name, gradient in super().backward(gradients).items()}

    def state_dict(self):
        return self._average

    def load_state_dict(self, state):
        self._average = state


class LosesOnTheWay(Forgets):
    """Saves all, and takes back none of it."""

    def state_dict(self):
        return self._average

    def load_state_dict(self, state):
        pass


class ReturnsDoubles(Sound):
    """Returns gradients of another dtype."""

    def backward(self, gradients):
        return {name: gradient.to(torch.float64) for name, gradient in gradients.items()}


class NeedsALargeBatch(Sound):
    """Divides by the spread over the batch, which one sample does not have."""

    def forward(self, batch, outputs):
        return LossTerm(0.0, outputs / outputs.std(0))


class DropsAParameter(Sound):
    """Returns all gradients but one."""

    def backward(self, gradients):
        return dict(list(gradients.items())[1:])


class EditsInPlace(Sound):
    """Changes what it was given."""

    def backward(self, gradients):
        for gradient in gradients.values():
            gradient.mul_(2)
        return gradients


class DoesNothing:
    """Has nothing to do anywhere."""

    role = "monitor"
    forward = passthrough
    backward = passthrough


class Hangs(Sound):
    """Does not answer."""

    def backward(self, gradients, step):
        time.sleep(60 if step.global_step == 3 else 0)


class Grows(Sound):
    """Keeps whatever it can get."""

    def __init__(self):
        self._kept = []

    def backward(self, gradients):
        self._kept.append(torch.ones(64 * 2**20))


class Listens:
    """Reports what is in a file that the job grants it."""

    role = "monitor"
    backward = passthrough
    needs: ClassVar = {"read": {"{path}": "what it reports"}}

    def __init__(self, path: str):
        self._report = json.loads(Path(path).read_text())

    def forward(self, loss):
        return Report(scalars={"loss": loss, **self._report})


class TooNew(Sound):
    """Takes an argument that no series has."""

    def backward(self, gradients, weather):
        return gradients
