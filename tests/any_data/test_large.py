"""Data of ten times the memory that the trainer may have are trained on, in memory that stays as it is."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .large import LIMIT, SAMPLES

pytestmark = pytest.mark.room

HERE = Path(__file__).parent
BATCH = 32
LIMITED = """
import os, resource, sys
limit, *words = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
os.execv(sys.executable, [sys.executable, "-m", "ringfence", *words])
"""


def start(folder, data, workers):
    shutil.copy(HERE / "large.py", folder)
    job = {
        "model": "large:Net",
        "data": {"name": f"large:{data}", "workers": workers},
        "epochs": 1,
        "batch_size": BATCH,
        "validation_fraction": 0,
        "threads": 1,
        "plugins": [{"optim": {"algorithm": "sgd", "lr": 0.1}, "isolation": "trusted"}],
    }
    if data == "at_once":
        del job["data"]["workers"]
    (folder / "job.yaml").write_text(json.dumps(job))

    command = [sys.executable, "-c", LIMITED, str(LIMIT), "train", "job.yaml", "--out", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **streams)


def own_bytes(process):
    """Return the anonymous memory of a process, and those of its children."""
    pids, found = [process.pid], 0
    for pid in pids:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        pids += map(int, children.split())
        found += sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))
    return found


def steps_of(folder):
    try:
        lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return sum('"kind":"train"' in line.replace(" ", "") for line in lines)


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_stays_as_it_is_while_ten_times_as_much_is_read(tmp_path, workers):
    total, seen = SAMPLES // BATCH, []
    with start(tmp_path, "as_read", workers) as trainer:
        while trainer.poll() is None:
            if (done := steps_of(tmp_path)) and done < total:
                seen.append((done, own_bytes(trainer)))
            time.sleep(0.05)
        told = trainer.stdout.read()
    assert trainer.returncode == 0, told
    assert f"completed after {total} steps" in told
    early = max(used for done, used in seen if done <= total // 3)
    late = max(used for done, used in seen if done > total // 3)
    assert late < early + LIMIT // 8, seen


def test_the_limit_is_one(tmp_path):
    with start(tmp_path, "at_once", 0) as trainer:
        told, _ = trainer.communicate(timeout=170)
    assert trainer.returncode == 2, told
    assert "allocate" in told
