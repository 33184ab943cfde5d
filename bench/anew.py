"""The other side: a command whose plugins run in the trainer, ended by one of them, started anew and resumed.

That is what a fault costs in a framework that does not isolate its extensions. Everything but the
isolation is the same: the job, the model, the data, the plugins, and checkpoints once an epoch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_JOB = """
model: {{name: mlp, hidden: {hidden}}}
data: {{name: arrays, path: data.npz}}
epochs: 100000
batch_size: 16
eval_every: 1000000
checkpoint_every: 16
seed: 0
plugins:
  - gradclip: {{max_norm: 1.0}}
    isolation: trusted
  - optim: {{algorithm: adamw, lr: 0.001}}
    isolation: trusted
"""
_SECONDS = 120.0


def run_anew(hidden: tuple[int, ...]) -> tuple[float, int]:
    """Kill such a command in the middle of an epoch and resume it.

    Args:
        hidden: Widths of the model's hidden layers.

    Returns:
        Seconds from its death until it took a step again, and the steps that it takes once more.
    """
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as name:
        folder = Path(name)
        job, out = folder / "job.yaml", folder / "out"
        job.write_text(_JOB.format(hidden=list(hidden)))
        _write_data(folder / "data.npz")
        command = [sys.executable, "-m", "ringfence", "train"]
        first = _start([*command, str(job), "--out", str(out)])
        try:
            _wait_until(lambda: _steps(out) >= 40, first)  # noqa: PLR2004 - in the middle of the third epoch
        finally:
            first.kill()
            first.wait()
        died_at, done = time.monotonic(), _steps(out)
        checkpoint = max(int(path.name.rpartition("-")[2]) for path in (out / "checkpoints").glob("step-*"))
        again = _start([*command, "--resume", str(out)])
        try:
            # Resuming cuts the record back to the checkpoint; the first step after it adds to it again.
            _wait_until(lambda: _last_run(out) and _steps(out) > checkpoint, again)
            return time.monotonic() - died_at, done - checkpoint
        finally:
            again.kill()
            again.wait()


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _wait_until(condition: object, process: subprocess.Popen[bytes]) -> None:
    assert callable(condition)
    until = time.monotonic() + _SECONDS
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(f"the command ended with status {process.returncode}")
        if time.monotonic() > until:
            raise RuntimeError(f"the command took no step in {_SECONDS:g} s")
        time.sleep(0.002)


def _records(out: Path) -> list[dict[str, object]]:
    try:
        lines = (out / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def _steps(out: Path) -> int:
    """Return how many steps the record tells of."""
    steps = [int(str(record["step"])) + 1 for record in _records(out) if record["kind"] == "train"]
    return max(steps, default=0)


def _last_run(out: Path) -> bool:
    """Tell whether the record was gone on with by a second process."""
    return sum(record["kind"] == "run" for record in _records(out)) > 1


def _write_data(path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {}
    for prefix, count in (("", 256), ("test_", 16)):
        arrays[f"{prefix}inputs"] = generator.integers(0, 256, (count, 1, 16, 16)).astype("uint8")
        arrays[f"{prefix}targets"] = generator.integers(0, 10, count)
    np.savez(path, **arrays)
