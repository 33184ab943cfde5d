"""Plugins that take a draft of what they change; they return that, the argument, a pass of one, nothing."""

import torch

from ringfence import AnotherPass, passthrough


def changed(tensors, returned):
    """Add 1 to a draft of ``tensors``, where there are drafts; return what ``returned`` says."""
    point = getattr(tensors, "draft", tensors.clone)()
    for tensor in point.values():
        tensor.add_(1.0)
    made = {"draft": point, "argument": tensors, "nothing": None}
    return AnotherPass(made[returned.split()[1]]) if " " in returned else made[returned]


class Updates:
    role = "optimizer"
    forward = passthrough

    def __init__(self, returned: str):
        self.returned = returned

    def backward(self, parameters):
        return changed(parameters, self.returned)


class Limits:
    role = "gradient"
    forward = passthrough

    def __init__(self, returned: str):
        self.returned = returned

    def backward(self, gradients):
        return changed(gradients, self.returned)


class Learns(Updates):
    """Works with a graph of its own; returns what it has drafted, or tensors that come of the graph."""

    def backward(self, parameters):
        weight = torch.ones((), requires_grad=True)
        point = parameters.draft()
        for tensor in point.values():
            tensor.copy_(tensor * weight + 1.0)
        return {name: tensor * weight for name, tensor in point.items()} if self.returned == "new" else point
