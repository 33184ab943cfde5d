"""The loggers of others, as they are installed: what they are given, and that nothing leaves the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.room, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
STRACE = shutil.which("strace")
STEPS = 150
JOB = f"""\
model: slow:net
data: {{name: mnist10k, limit: 400}}
steps: {STEPS}
batch_size: 16
eval_every: 50
threads: 1
plugins:
- optim: {{algorithm: sgd, lr: 0.01}}
- monitor: {{bins: 0, images: 0}}
  every: 10
"""
SLOW = """\
import time
import torch

class Slow(torch.nn.Sequential):
    def forward(self, inputs):
        time.sleep(0.04 if self.training else 0)
        return super().forward(inputs)

def net(num_classes: int = 10):
    return Slow(torch.nn.Flatten(), torch.nn.Linear(784, num_classes))
"""
#: Its file is a log of LevelDB's: blocks of 32 KiB, and 7 bytes before each piece; the first 7 are its own.
READ_WANDB = """\
import collections, glob, json, sys
from wandb.proto import wandb_internal_pb2 as pb

def records(data, whole=b"", at=7):
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield whole
            whole = b""

found, config, code = collections.defaultdict(list), {}, None
(path,) = glob.glob(sys.argv[1] + "/wandb/offline-run-*/*.wandb")
for data in records(open(path, "rb").read()):
    record = pb.Record()
    record.ParseFromString(data)
    items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
    for name, value in items.items():
        found[name].append([items.get("step"), value])
    for item in (*record.run.config.update, *record.config.update):
        config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    if record.HasField("exit"):
        code = record.exit.exit_code
print(json.dumps({"found": found, "config": config, "exit": code}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Return the Python of an environment with the loggers beside all that there is for the tests."""
    folder = tmp_path_factory.mktemp("loggers") / "env"
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = [*extras["mlflow"], *extras["wandb"]]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", ROOT / "constraints.txt", *wanted], check=True, timeout=500)
    (own,) = folder.glob("lib/python*/site-packages")
    # Neither brings another torch, nor anything with plugins of ours.
    assert not list(own.glob("torch*"))
    (own / "tests.pth").write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
    return python


@pytest.fixture(scope="module")
def followed(python, tmp_path_factory):
    """Train, and have both loggers follow from early on; return the run, their folders and their traces."""
    folder = tmp_path_factory.mktemp("followed")
    (folder / "job.yaml").write_text(JOB)
    (folder / "slow.py").write_text(SLOW)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(folder), "NO_COLOR": "1"}
    run = folder / "run"
    trainer = subprocess.Popen(
        [sys.executable, "-m", "ringfence", "train", "job.yaml", "--out", run, "--quiet"],
        cwd=folder,
        env=environment,
    )
    try:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists():
            assert trainer.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        loggers = []
        for name in ("wandb", "mlflow"):
            trace = [STRACE, "-f", "-qq", "-e", "trace=connect,sendto", "-o", folder / f"{name}.trace"]
            command = [
                python,
                "-m",
                "ringfence",
                "log",
                run,
                "--to",
                name,
                "--follow",
                "--dir",
                folder / name,
            ]
            loggers.append(
                subprocess.Popen(
                    [*(trace if STRACE else []), *command],
                    cwd=folder,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        assert trainer.wait(300) == 0
        told = [logger.communicate(timeout=120) for logger in loggers]
        assert [logger.returncode for logger in loggers] == [0, 0], told
    finally:
        for process in (trainer, *loggers):
            if process.poll() is None:
                process.kill()
                process.wait()
    return folder, [out for out, _ in told]


def written(folder):
    """Return name to steps and values, as the run itself has written them."""
    found = {}
    for line in (folder / "run" / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] in ("train", "validation", "test") and "loss" in record:
            found.setdefault(f"{record['kind']}/loss", []).append([record["step"], record["loss"]])
        if record["kind"] == "plugin" and "monitor/grad_norm" in record:
            found.setdefault("monitor/grad_norm", []).append([record["step"], record["monitor/grad_norm"]])
    assert len(found["train/loss"]) == STEPS
    assert len(found["monitor/grad_norm"]) == STEPS // 10
    return found


def test_wandb_has_every_number_the_job_and_how_it_ended(followed, python):
    folder, (told, _) = followed
    assert "of a run that is completed: send it with: wandb sync" in told

    done = subprocess.run(
        [python, "-c", READ_WANDB, folder / "wandb"], check=True, capture_output=True, text=True, timeout=120
    )

    kept = json.loads(done.stdout)
    for name, values in written(folder).items():
        assert kept["found"][name] == values
    assert kept["config"]["model"] == "slow:net"
    assert kept["config"]["plugins.optim.lr"] == "0.01"
    assert kept["exit"] == 0


def test_mlflow_has_every_number_the_job_and_how_it_ended(followed):
    folder, (_, told) = followed
    assert "see it with: mlflow ui --backend-store-uri file://" in told

    (run,) = (path.parent for path in (folder / "mlflow" / "mlruns").glob("*/*/metrics"))
    for name, values in written(folder).items():
        lines = [line.split() for line in (run / "metrics" / name).read_text().splitlines()]
        assert [[int(step), float(value)] for _, value, step, *_ in lines] == values
    assert (run / "params" / "model").read_text() == "slow:net"
    assert "status: 3" in (run / "meta.yaml").read_text()  # finished


@pytest.mark.skipif(STRACE is None, reason="no strace")
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_no_network_is_asked_for(followed, name):
    folder, _ = followed

    trace = (folder / f"{name}.trace").read_text()
    assert "AF_INET" not in trace

    seen = folder / "control.trace"
    code = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    subprocess.run(
        [STRACE, "-f", "-qq", "-e", "trace=connect", "-o", seen, sys.executable, "-c", code], check=True
    )
    assert "AF_INET" in seen.read_text()


def test_a_server_that_cannot_be_reached_is_told_in_a_line(followed, python):
    folder, _ = followed
    environment = {**os.environ, "HOME": str(folder), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    command = [python, "-m", "ringfence", "log", folder / "run", "--to", "mlflow", "--online"]

    def run(**more):
        return subprocess.run(
            command,
            cwd=folder,
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    assert run().stderr.startswith("error: --online: no server is named; set MLFLOW_TRACKING_URI")
    unreachable = run(MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert unreachable.returncode == 2
    assert "error: --to mlflow: " in unreachable.stderr
    assert "Traceback" not in unreachable.stderr
