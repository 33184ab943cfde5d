"""What a program can name by import path."""

import torch
from torch import nn


def net(num_classes, width=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, num_classes))


def samples(count=64):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, 16, generator=generator)
    return inputs, (inputs[:, 0] > 0).long()


def smooth(outputs, targets, *, by=0.1):
    return nn.functional.cross_entropy(outputs, targets, label_smoothing=by)


class Scaled:
    """A loss that is made with an option, and says what its mean was divided by."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, outputs, targets):
        return self.scale * nn.functional.cross_entropy(outputs, targets)

    def weight(self, targets):
        return len(targets)


class Right:
    """A metric without a word on its direction: how many are right."""

    def __init__(self, among=1):
        self.among = among
        self.reset()

    def reset(self):
        self.count = 0

    def update(self, outputs, targets):
        found = outputs.topk(self.among).indices == targets[:, None]
        self.count += int(found.any(1).sum())

    def compute(self):
        return self.count


class TwoHeads(nn.Module):
    """A class and two numbers for each sample."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 16)
        self.labels, self.depth = nn.Linear(16, 3), nn.Linear(16, 2)

    def forward(self, inputs):
        hidden = self.body(inputs).tanh()
        return {"labels": self.labels(hidden), "depth": self.depth(hidden)}


def two_kinds(count=120):
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(count, 6, generator=generator)
    targets = {"labels": inputs[:, :3].argmax(1), "depth": inputs[:, 3:5].contiguous()}
    parts = slice(0, count * 3 // 4), slice(count * 3 // 4, count)
    return tuple((inputs[part], {name: tensor[part] for name, tensor in targets.items()}) for part in parts)
