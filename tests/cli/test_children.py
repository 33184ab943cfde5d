"""Processes that the user's own code starts: they end, and the command ends, as under plain Python."""

import os
import signal
import subprocess
import sys

import pytest

from ringfence.cli.signals import StopFlag

LIMIT_S = 60
JOB = """\
model: {name: mlp, hidden: [8]}
data: {name: "starting:load"}
steps: 2
batch_size: 16
plugins:
  - optim: {algorithm: adamw, lr: 1e-3}
    isolation: trusted
"""
#: Ends a process of its own; keeps another, a pool and a loader's workers to the end.
DATA = """\
import multiprocessing, sys, time
import torch
from torch.utils.data import DataLoader, TensorDataset

def square(x):
    return x * x

def load():
    global helper, pool, batches
    ended = multiprocessing.Process(target=time.sleep, args=(600,))
    ended.start()
    ended.terminate()
    ended.join()
    print("ended by signal", -ended.exitcode)
    helper = multiprocessing.Process(target=time.sleep, args=(600,), daemon=True)
    helper.start()
    pool = multiprocessing.Pool(1)
    print("pool:", pool.map(square, [3]))
    inputs, targets = torch.eye(32), torch.arange(32) % 2
    batches = iter(DataLoader(TensorDataset(inputs, targets), num_workers=1, persistent_workers=True))
    next(batches)
    return (inputs, targets), (inputs, targets)
"""


def test_a_run_whose_data_keeps_processes_ends(tmp_path):
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "starting.py").write_text(DATA)
    with subprocess.Popen(
        [sys.executable, "-m", "ringfence", "train", "job.yaml"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as run:
        try:
            told, _ = run.communicate(timeout=LIMIT_S)
        finally:
            # None of its children may outlive a test that fails.
            try:
                os.killpg(run.pid, signal.SIGKILL)
            except ProcessLookupError:
                left = False
            else:
                left = True

    assert run.returncode == 0, told
    assert f"ended by signal {signal.SIGTERM:d}" in told
    assert "pool: [9]" in told
    assert "completed after 2 steps" in told
    assert not left


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_a_child_is_none_to_its_parent(number):
    before = signal.getsignal(number)
    with StopFlag() as flag:
        flag.starting()
        if (child := os.fork()) == 0:
            as_before = signal.getsignal(number) is before and signal.set_wakeup_fd(-1) == -1
            signal.signal(number, signal.SIG_DFL)  # SIGINT would raise in pytest
            if as_before:
                os.kill(os.getpid(), number)
            os._exit(1)

        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number
        assert not flag.request.is_made()
        os.kill(os.getpid(), number)
        assert flag.request.is_made()


#: Its hook is registered first, and so comes before ours in the child.
MET = """\
import os, signal
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
from ringfence.cli.signals import StopFlag
with StopFlag() as flag:
    flag.starting()
    child = os.fork()
    if child == 0:
        os._exit(0)
    print(-os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flag.request.is_made())
"""


def test_a_signal_that_meets_a_child_as_it_is_forked_is_none_to_its_parent():
    """It waits until the child has let go of what is its parent's."""
    done = subprocess.run(
        [sys.executable, "-c", MET], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )

    assert done.stdout == f"{signal.SIGTERM:d} False\n", done.stderr
