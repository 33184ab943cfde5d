"""What a program can name by import path."""

import torch
from torch import nn


def net(num_classes, width=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, num_classes))


def samples(count=64):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, 16, generator=generator)
    return inputs, (inputs[:, 0] > 0).long()
