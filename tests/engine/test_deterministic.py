"""One seed gives the same bits, whichever thread ends first; torch left alone shows that it would not."""

import pytest
import torch
from engine_helpers import adamw, config, hooks_of, image_data, run
from torch import nn

from ringfence.reproducibility import deterministic

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Lookup(nn.Module):
    """Looks pixels up in a table, so that many gradients are added up in each of its rows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.table = nn.Parameter(torch.randn(16, 256))
        self.last = nn.Linear(256, 4)

    def forward(self, inputs):
        rows = (inputs * 3).long().remainder(16).flatten(1)
        return self.last(self.table[rows].mean(1).relu())


def convolutions():
    torch.manual_seed(4)
    first, second = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
    return nn.Sequential(
        first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4)
    )


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def trained(make_model, device, tries):
    """Return the digest of the weights of each run; the first that differs is the last."""
    data, found = image_data(train=64), []
    while len(found) < tries and len(set(found)) < 2:
        settings = config(batch_size=64, epochs=1, device=device)
        found.append(run(make_model(), data, hooks_of(adamw()), settings).weights_sha256)
    return found


#: A GPU looks rows up in one order as it is.
CASES = (Lookup, "cpu"), pytest.param(convolutions, "cuda", marks=needs_cuda)
#: Runs until chance has shown itself: on a busy machine the threads often come one after the other.
MANY = 300


@pytest.mark.parametrize(("make_model", "device"), CASES)
def test_runs_end_with_the_same_weights(make_model, device):
    assert len(set(trained(make_model, device, tries=4))) == 1


@pytest.mark.parametrize(("make_model", "device"), CASES)
def test_they_would_not_if_torch_were_left_alone(make_model, device, monkeypatch):
    """The control."""
    monkeypatch.setattr(deterministic, "be_repeatable", lambda: None)
    assert len(set(trained(make_model, device, tries=MANY))) == 2


def test_torch_is_given_back_as_it_was(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    seen = []

    class Looks(Lookup):
        def forward(self, inputs):
            seen.append((torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark))
            return super().forward(inputs)

    run(Looks(), image_data(), hooks_of(adamw()), config())
    assert set(seen) == {(1, False)}
    assert torch.get_deterministic_debug_mode() == 0
    assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.deterministic
    assert torch.utils.deterministic.fill_uninitialized_memory
