"""Tasks of every kind train in sandboxes and out of them, to the same weights as a loop in plain PyTorch.

Each has its job, with an augmentation and a monitor of a stranger's, clipping and an optimizer in sandboxes.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ringfence.engine.data import epoch_order

from ..site_folder import SiteFolder
from . import kinds

pytestmark = pytest.mark.room

HERE = Path(__file__).parent
SEED, BATCH, ACCUMULATED, EPOCHS, RATE = 5, 8, 3, 3, 0.05
#: As torch takes them by itself on a CPU: what is fused differs in last bits.
OPTIONS = {"momentum": 0.9, "foreach": False}
PLUGINS = [
    {"jitter": {}},
    {"gradclip": {"max_norm": 1.0}},
    {"optim": {"algorithm": "sgd", "lr": RATE, "options": OPTIONS}},
    {"sizes": {}, "every": 2},
]
PLAIN = [{"optim": {"algorithm": "sgd", "lr": RATE, "options": OPTIONS}, "isolation": "trusted"}]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    points = "jitter = any_data_plugins:Jitter\nsizes = any_data_plugins:Sizes"
    files = {"any_data_plugins.py": (HERE / "plugins.py").read_text()}
    SiteFolder(folder).install("any-data", files, requires=["ringfence>=0.2"], points=points)
    return folder


@pytest.fixture(scope="module", params=kinds.KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def place(kind, tmp_path_factory):
    """Return a folder with the module of the kinds, and the weights that this kind starts from."""
    folder = tmp_path_factory.mktemp(kind)
    shutil.copy(HERE / "kinds.py", folder)
    torch.manual_seed(SEED)
    save_file(kinds.model_of(kind).state_dict(), folder / "start.safetensors")
    return folder


def write_job(place, kind, name, plugins, **keys):
    job, *_ = kinds.KINDS[kind]
    data = {"name": f"kinds:{kind}", "workers": 1, **job.get("data", {})}
    whole = {
        **job,
        "data": data,
        "start_from": "start.safetensors",
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "grad_accum_steps": ACCUMULATED,
        "validation_fraction": 0,
        "checkpoint_every": 4,
        "seed": SEED,
        "threads": 1,
        "device": "cpu",
        "plugins": plugins,
        **keys,
    }
    if "steps" in job:
        del whole["epochs"]
    (place / f"{name}.yaml").write_text(json.dumps(whole))
    return place / f"{name}.yaml"


def environment(site):
    return {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}


def ringfence(site, *words):
    command = [sys.executable, "-m", "ringfence", *map(str, words)]
    done = subprocess.run(
        command, env=environment(site), capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def weights_of(run):
    return json.loads((run / "run.json").read_text())["weights_sha256"]


@pytest.fixture(scope="module")
def run(site, place, kind):
    """Return a run with all plugins, sandboxed."""
    ringfence(site, "train", write_job(place, kind, "job", PLUGINS), "--out", place / "run")
    return place / "run"


def test_the_same_loop_in_plain_torch_ends_with_the_same_weights(place, kind, site):
    """With batches put together to steps, a short last batch, and targets that count unequally."""
    ringfence(site, "train", write_job(place, kind, "plain", PLAIN), "--out", place / "plain")
    found = load_file(place / "plain" / "model.safetensors")
    expected = in_plain_torch(kind, load_file(place / "start.safetensors"))
    assert found.keys() <= expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
    _, _, counted = kinds.KINDS[kind]
    if counted is not None:
        wrong = in_plain_torch(kind, load_file(place / "start.safetensors"), by_samples=True)
        assert any(not torch.equal(tensor, wrong[name]) for name, tensor in found.items())


def in_plain_torch(kind, start, *, by_samples=False):
    job, _, counted = kinds.KINDS[kind]
    model = kinds.model_of(kind)
    model.load_state_dict(start)
    train, _ = getattr(kinds, kind)()
    turns = itertools.cycle(kinds.turns_of(kind))
    optimizers = {
        name: torch.optim.SGD([p for n, p in model.named_parameters() if n.startswith(name)], RATE, 0.9)
        for name, _ in kinds.turns_of(kind)
    }
    if "steps" in job:
        places = torch.arange(job["steps"] * ACCUMULATED * BATCH)
        train, passes = [*train], [(places % kinds.SAMPLES).split(BATCH)]
    else:
        passes = [epoch_order(len(train), SEED, epoch).split(BATCH) for epoch in range(EPOCHS)]
    for batches in passes:
        for first in range(0, len(batches), ACCUMULATED):
            rows = [part.tolist() for part in batches[first : first + ACCUMULATED]]
            step = [kinds.batch_of(kind, [train[i] for i in part]) for part in rows]
            counts = [
                len(part) if counted is None or by_samples else counted(targets)
                for part, (_, targets) in zip(rows, step, strict=True)
            ]
            name, criterion = next(turns)
            for (inputs, targets), count in zip(step, counts, strict=True):
                loss = criterion(kinds.called(model, inputs), targets)
                (loss / (sum(counts) / count) if len(step) > 1 else loss).backward()
            optimizers[name].step()
            model.zero_grad()
    return model.state_dict()


def test_killed_and_resumed_it_ends_with_the_weights_of_a_run_that_was_not(site, place, kind, run):
    job, folder = write_job(place, kind, "killed", PLUGINS), place / "killed"
    command = [sys.executable, "-m", "ringfence", "train", str(job), "--out", str(folder)]
    with subprocess.Popen(command, env=environment(site), stdout=subprocess.DEVNULL) as trainer:
        deadline = time.monotonic() + 150
        while not (folder / "checkpoints" / "step-00000004").is_dir():
            assert trainer.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    ringfence(site, "train", "--resume", folder)
    assert weights_of(folder) == weights_of(run)


def test_a_fresh_process_loads_and_measures_what_the_run_did(site, place, kind, run):
    command = [sys.executable, HERE / "measure.py", kind, run]
    done = subprocess.run(
        command, cwd=place, env=environment(site), capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["same"]
    figures = json.loads((run / "run.json").read_text())["test_metrics"]
    assert {name: told["test"][name] for name in figures} == figures


def test_what_plugins_saw_is_told(run, kind):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = [line for line in lines if any(name.startswith("sizes/") for name in line)]
    assert told
    assert all(line[f"sizes/{name}"] > 0 for line in told for name in ("inputs", "targets", "outputs"))
