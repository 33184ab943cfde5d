"""Ten thousand calls and a hundred restarts leave the host as it was."""

import gc
import os
import threading
from pathlib import Path

import pytest
import torch

from ringfence import PluginCrashedError, StepInfo, TensorMap


def host():
    """Return resident bytes, open descriptors, threads and mapped shared memory of this process."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {
        "resident": int(fields["RssAnon"].split()[0]) * 1024,
        "shared": int(fields["RssShmem"].split()[0]) * 1024,
        # The least of a few looks: the watchdog opens a file of /proc now and then.
        "descriptors": min(len(os.listdir("/proc/self/fd")) for _ in range(20)),  # noqa: PTH208 - a count
        "threads": threading.active_count(),
    }


@pytest.mark.parametrize(
    ("calls", "restarts"),
    [(500, 5), pytest.param(10_000, 100, marks=[pytest.mark.soak, pytest.mark.timeout(900)])],
)
def test_calls_and_restarts_leave_the_host_as_it_was(start, calls, restarts):
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
    before = host()
    work(calls, restarts)
    after = host()
    print(calls, "calls", restarts, "restarts", before, after)
    assert after["descriptors"] == before["descriptors"]
    assert after["threads"] == before["threads"]
    assert after["shared"] <= before["shared"] + 64 * 1024
    assert after["resident"] <= before["resident"] + 4 * 1024 * 1024
