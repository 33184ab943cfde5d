"""Which optimizers leave the gradients alone, tried on memory that the kernel does not let them write."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.builtin.optim.reads import ONLY_READ

PROBE = Path(__file__).with_name("read_only_probe.py")


def probe(*paths):
    done = subprocess.run(
        [sys.executable, PROBE, *paths],
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
        env={"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_listed_optimizers_only_read_gradients():
    found = probe(*sorted(ONLY_READ))
    assert found == {path: [] for path in ONLY_READ}


@pytest.mark.parametrize("path", ["torch_optimizer.AdaBelief", "torch_optimizer.NovoGrad"])
def test_the_probe_finds_an_optimizer_that_writes(path):
    assert probe(path)[path]
