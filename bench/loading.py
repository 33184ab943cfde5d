"""Measure `ringfence.load` beside building the same network and reading its weights by hand.

    python bench/loading.py [--rounds 30]

Both sides take turns in one process: the median of each, the median of their ratios, and the ratio of the
processor's time, which others on the machine disturb less. By hand is: call what builds the network,
`safetensors.torch.load_file`, `load_state_dict`, `eval()`; nothing is checked. ringfence reads every byte of
the weights for their digest, and builds no first weights of a builtin network; one of the user's,
`loaded_net:net`, is built in full by both.

Exit status 1 if the median of ratios is above 1.2 for the largest, resnet18. Others take milliseconds, most
of them for reading and checking what the folder says.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

import ringfence
from ringfence.models.cnn import cnn
from ringfence.models.data_shape import Shape
from ringfence.models.mlp import mlp
from ringfence.models.resnet import resnet18
from ringfence.models.vit import vit

SHAPE = Shape((1, 28, 28), 10)
MOST = 1.2
JUDGED = "resnet18"
NET = """\
from torch import nn

def net():
    hidden = [layer for _ in range(3) for layer in (nn.Linear(1024, 1024), nn.BatchNorm1d(1024), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 1024), *hidden, nn.Linear(1024, 10))
"""
JOB = """\
model: {name}
data: {{name: mnist10k, limit: 64}}
steps: 1
threads: 1
plugins: [{{optim: {{algorithm: sgd, lr: 0.1}}, isolation: trusted}}]
"""


def by_hand(build: Callable[[], nn.Module], weights: Path) -> nn.Module:
    """Return the network as a few lines of plain torch make it."""
    network = build()
    network.load_state_dict(load_file(weights))
    return network.eval()


def measure(make: Callable[[], object]) -> tuple[float, float]:
    """Return how many seconds a call takes, and how many of the processor's."""
    wall, processor = time.perf_counter(), time.process_time()
    make()
    return time.perf_counter() - wall, time.process_time() - processor


def compare(name: str, build: Callable[[], nn.Module], folder: Path, rounds: int) -> bool:
    """Print one row, and return whether the ratio is as it is to be."""
    run = folder / name.replace(":", "-")
    (folder / "job.yaml").write_text(JOB.format(name=name))
    ringfence.train(folder / "job.yaml", out=run, progress=False)
    torch.set_num_threads(1)
    sides = (lambda: ringfence.load(run, "last"), lambda: by_hand(build, run / "model.safetensors"))
    for make in sides:
        make()
    pairs = [[measure(make) for make in (sides if n % 2 else sides[::-1])] for n in range(rounds)]
    pairs = [pair if n % 2 else pair[::-1] for n, pair in enumerate(pairs)]
    loaded, plain = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
    ratio, processor = (statistics.median(pair[0][k] / pair[1][k] for pair in pairs) for k in (0, 1))
    size = sum(parameter.numel() for parameter in build().parameters())
    sys.stdout.write(
        f"{name:10} {size:10,} parameters  load {loaded * 1e3:7.1f} ms  by hand {plain * 1e3:7.1f} ms  "
        f"ratio {ratio:.2f}  of processor time {processor:.2f}\n"
    )
    return name != JUDGED or ratio <= MOST


def main() -> int:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "loaded_net.py").write_text(NET)
        sys.path.append(place)
        from loaded_net import net  # noqa: PLC0415 - written above

        builders = {"resnet18": lambda: resnet18(SHAPE), "loaded_net:net": net, "vit": lambda: vit(SHAPE)}
        builders |= {"cnn": lambda: cnn(SHAPE), "mlp": lambda: mlp(SHAPE)}
        kept = [compare(name, build, folder, rounds) for name, build in builders.items()]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
