"""Plugins of every role that keep state, whose results depend on it, and that fail once where they are told.

A plugin that came back with less than its last state would change the weights: that is what the runs
that they take part in look for.
"""

import torch

from ringfence import LossScale, Report, passthrough

from .faults import Faulty


class Blur(Faulty):
    """Add noise to the batch, the more of it the lower the losses have been."""

    role = "augment"
    needs = {"write": {"{marks}": "notes which faults it has had"}}  # noqa: RUF012 - as authors write it

    def __init__(self, marks: str, plan: list | None = None):
        super().__init__(marks, plan)
        self.level = 0.5

    def forward(self, batch, step):
        wrong = self.fault("forward", step)
        if wrong is not None:
            return wrong(batch)
        noise = torch.rand(batch.inputs.shape, generator=step.generator())
        return batch.with_(inputs=(batch.inputs + 0.1 * self.level * noise).clamp(0, 1))

    def backward(self, losses, step):
        if self.fault("backward", step) is not None:
            return 7
        self.level = 0.9 * self.level + 0.1 / (1.0 + float(losses.mean()))
        return None

    def state(self):
        return {"level": self.level}

    def restore(self, state):
        self.level = state["level"]


class Sway(Faulty):
    """Scale the loss, and the gradients by how their norm compares with its running mean."""

    role = "gradient"
    needs = {"write": {"{marks}": "notes which faults it has had"}}  # noqa: RUF012 - as authors write it

    def __init__(self, marks: str, plan: list | None = None):
        super().__init__(marks, plan)
        self.mean = torch.zeros(3, dtype=torch.float64)
        self.calls = 0

    def forward(self, outputs, loss, step):
        wrong = self.fault("forward", step)
        if wrong is not None:
            return wrong(None)
        return LossScale(1.0 + 0.01 * (self.calls % 5))

    def backward(self, gradients, step):
        wrong = self.fault("backward", step)
        if wrong is not None:
            return wrong(gradients)
        norm = torch.sqrt(sum((gradient.double() ** 2).sum() for gradient in gradients.values()))
        self.calls += 1
        self.mean = 0.8 * self.mean + 0.2 * torch.stack([norm, norm**2, torch.tensor(1.0)])
        factor = float(torch.clamp(self.mean[0] / (norm + 1e-12), 0.5, 2.0))
        return {name: gradient * factor for name, gradient in gradients.items()}

    def state(self):
        return {"mean": self.mean, "calls": self.calls}

    def restore(self, state):
        self.mean, self.calls = state["mean"], state["calls"]


class Roll(Faulty):
    """Descend with momentum, and look a little ahead before each pass."""

    role = "optimizer"
    needs = {"write": {"{marks}": "notes which faults it has had"}}  # noqa: RUF012 - as authors write it

    def __init__(self, marks: str, lr: float = 0.05, plan: list | None = None):
        super().__init__(marks, plan)
        self.lr = lr
        self.momentum = {}

    def forward(self, parameters, step):
        wrong = self.fault("forward", step)
        if wrong is not None:
            return wrong(parameters)
        return {name: value - 0.1 * self.momentum.get(name, 0.0) for name, value in parameters.items()}

    def backward(self, parameters, gradients, step):
        wrong = self.fault("backward", step)
        if wrong is not None:
            return wrong(parameters)
        changed = parameters.clone()
        for name, gradient in gradients.items():
            self.momentum[name] = 0.9 * self.momentum.get(name, 0.0) + self.lr * step.lr_factor * gradient
            changed[name].sub_(self.momentum[name])
        return changed

    def state(self):
        return {"momentum": self.momentum}

    def restore(self, state):
        self.momentum = state["momentum"]


class Gauge(Faulty):
    """Count what it is shown."""

    role = "monitor"
    needs = {"write": {"{marks}": "notes which faults it has had"}}  # noqa: RUF012 - as authors write it
    forward = passthrough

    def __init__(self, marks: str, plan: list | None = None):
        super().__init__(marks, plan)
        self.seen = []

    def backward(self, gradients, step):
        if self.fault("backward", step) is not None:
            return 7
        self.seen = [*self.seen[-20:], step.global_step]
        return Report(scalars={"seen": len(self.seen)})

    def state(self):
        return {"seen": self.seen}

    def restore(self, state):
        self.seen = state["seen"]
