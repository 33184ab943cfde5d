"""Samples of a data set of torch's, drawn by weight: the same weights whoever reads and changes them."""

import json

import pytest
import torch
from torch import nn

import ringfence

pytestmark = pytest.mark.room


class Points(torch.utils.data.Dataset):
    """Each draws its noise as it is read."""

    classes = ("many", "few")
    targets = tuple(int(i % 7 == 0) for i in range(70))

    def __len__(self):
        return 70

    def __getitem__(self, index):
        return torch.randn(4) + index / 70, self.targets[index]


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2))


def data():
    return Points(), Points()


def train(folder, isolation="trusted", workers=0, **keys):
    plugins = [
        {"gradclip": {"max_norm": 0.5}, "isolation": isolation},
        {"optim": {"algorithm": "adamw", "lr": 0.01}, "isolation": isolation},
    ]
    keys = {"steps": 20, "sample_weights": "balanced", **keys}
    return ringfence.train(
        out=folder,
        model=network,
        data={"name": data, "workers": workers},
        plugins=plugins,
        batch_size=8,
        threads=1,
        seed=3,
        progress=False,
        **keys,
    )


def weights_of(run):
    return json.loads((run.folder / "run.json").read_text())["weights_sha256"]


def test_one_seed_gives_one_set_of_weights(tmp_path):
    expected = weights_of(train(tmp_path / "run"))
    assert weights_of(train(tmp_path / "workers", workers=2)) == expected
    assert weights_of(train(tmp_path / "sandboxed", "sandbox", workers=1)) == expected
    # An epoch has 8 steps.
    train(tmp_path / "resumed", "sandbox", workers=1, steps=11)
    assert weights_of(train(tmp_path / "resumed", "sandbox", workers=1, resume=True)) == expected
    assert weights_of(train(tmp_path / "each", sample_weights=None)) != expected
