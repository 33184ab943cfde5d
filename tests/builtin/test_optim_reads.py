"""Which optimizers leave the gradients alone, tried on memory that the kernel does not let them write."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ringfence.builtin.optim.reads import ONLY_READ

PROBE = Path(__file__).with_name("read_only_probe.py")


#: Optimizers that change the gradients they are given, so that it is seen that the probe finds such.
WRITING = ("torch_optimizer.AdaBelief", "torch_optimizer.NovoGrad")


@pytest.fixture(scope="module")
def found():
    """Return import path to the cases in which an optimizer wrote, of all that are looked at."""
    done = subprocess.run(
        [sys.executable, PROBE, *sorted(ONLY_READ), *WRITING],
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
        env={"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_listed_optimizers_only_read_gradients(found):
    assert [path for path, cases in found.items() if cases and path not in WRITING] == []
    assert found.keys() == {*ONLY_READ, *WRITING}


@pytest.mark.parametrize("path", WRITING)
def test_the_probe_finds_an_optimizer_that_writes(found, path):
    assert found[path]
