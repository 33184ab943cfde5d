"""Ten thousand calls and a hundred restarts leave the host as it was."""

import gc
import threading
from pathlib import Path

import pytest
import torch

from ringfence import PluginCrashedError, StepInfo, TensorMap

from ..watching import descriptors, settled_descriptors


def host(descriptors):
    """Return resident bytes, the ``descriptors`` open, threads and mapped shared memory of this process."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {
        "resident": int(fields["RssAnon"].split()[0]) * 1024,
        "shared": int(fields["RssShmem"].split()[0]) * 1024,
        "descriptors": descriptors,
        "threads": threading.active_count(),
    }


@pytest.mark.attack(52)
@pytest.mark.parametrize(
    ("calls", "restarts"),
    [(500, 5), pytest.param(10_000, 100, marks=[pytest.mark.soak, pytest.mark.timeout(900)])],
)
def test_calls_and_restarts_leave_the_host_as_it_was(start, record_property, calls, restarts):
    record_property("no control", "52: nothing is attacked that could be without a sandbox")
    gradients = TensorMap.like({"weight": torch.zeros(256, 256), "bias": torch.zeros(256)})
    plugin = start("obedient:Halve")
    faulty = start("faulty:Faulty", options={"fault": "abort", "at": 1})

    def work(count, crashes):
        for _ in range(count):
            plugin.call("backward", {"gradients": gradients}, StepInfo(0))
        for _ in range(crashes):
            with pytest.raises(PluginCrashedError):
                faulty.call("backward", {"gradients": gradients}, StepInfo(1))
            faulty.restart()

    work(100, 2)
    before = host(descriptors())
    work(calls, restarts)
    after = host(settled_descriptors(before["descriptors"]))
    print(calls, "calls", restarts, "restarts", before, after)
    assert after["descriptors"] <= before["descriptors"]
    assert after["threads"] == before["threads"]
    assert after["shared"] <= before["shared"] + 64 * 1024
    assert after["resident"] <= before["resident"] + 4 * 1024 * 1024
