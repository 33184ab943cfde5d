"""Jobs on texts, tables, masks and boxes: sandboxed, killed and resumed, and the same in plain PyTorch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from ringfence.engine.data import epoch_order
from ringfence.engine.forward import forward
from ringfence.job.job_file import read_job
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare

from ..conftest import call

pytestmark = pytest.mark.room

COMMAND = Path(sys.executable).with_name("ringfence")
PLUGINS = """\
plugins:
{augment}
  - optim: {{algorithm: adamw, lr: 0.01}}
  - gradclip: {{max_norm: 1.0}}
  - monitor
"""
PLAIN = """\
plugins:
  - optim: {algorithm: sgd, lr: 0.05}
    isolation: trusted
"""
JOB = """\
model: {model}
data: {data}
loss: {loss}
steps: {steps}
batch_size: 7
grad_accum_steps: 2
threads: 1
"""
TOKENS = "  - augment: {ops: [{token_dropout: {id: 1, p: 0.1}}]}"
FLIP = "  - augment: {ops: [{flip: {p: 0.5}}]}"
BOXES = """\
from torch import nn

class Net(nn.Module):
    def __init__(self, channels, height, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 4))

    def forward(self, images):
        return self.layers(images)

def loss(outputs, targets):
    found = targets["labels"][:, :1] >= 0
    return ((outputs - targets["boxes"][:, 0] / 6) * found).square().mean()
"""
#: Model, data, loss and augmentation.
JOBS = {
    "text": ("{name: lstm, hidden_size: 8}", "{name: text, path: a.csv}", "cross_entropy", TOKENS),
    "next": (
        "{name: transformer, causal: true, d_model: 8, dropout: 0}",
        "{name: text, path: a.csv, task: next_token}",
        "cross_entropy",
        TOKENS,
    ),
    "table": ("{name: mlp, hidden: [8]}", "{name: table, path: b.jsonl, target: rent}", "mse", ""),
    "masks": (
        "{name: unet, width: 2, depth: 1}",
        "{name: segmentation, path: slides}",
        "cross_entropy",
        FLIP,
    ),
    "boxes": ('"boxes_net:Net"', "{name: detection, path: slides}", '"boxes_net:loss"', FLIP),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Made data of each kind; 23 samples are trained on, which no two batches of 7 divide."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "boxes_net.py").write_text(BOXES)
    words = ("good film", "bad film indeed", "a good plot", "bad plot , bad actors", "so so")
    rows = [f"{words[i % 5]},{'pos' if i % 2 else 'neg'}" for i in range(32)]
    (folder / "a.csv").write_text(
        "\n".join(["text,label", *(row.replace(" , ", " ") for row in rows)]) + "\n"
    )
    flats = [{"area": 20.0 + i, "city": ("Rome", "Oslo", None)[i % 3], "rent": 1.5 * i} for i in range(32)]
    (folder / "b.jsonl").write_text("".join(f"{json.dumps(flat)}\n" for flat in flats))
    coco = {"images": [], "annotations": [], "categories": [{"id": 5, "name": "cell"}]}
    for i in range(32):
        pixels = np.random.default_rng(i).integers(0, 2, (6, 5), np.uint8)
        for kind, scale in (("images", 200), ("masks", 1)):
            (folder / "slides" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels * scale).save(folder / "slides" / kind / f"{i:02}.png")
        coco["images"].append({"id": i, "file_name": f"images/{i:02}.png", "width": 5, "height": 6})
        if i % 3:
            coco["annotations"].append({"image_id": i, "category_id": 5, "bbox": [i % 3, 1, 2, 3]})
    (folder / "slides" / "annotations.json").write_text(json.dumps(coco))
    return folder


def write(folder, name, steps, plugins):
    model, data, loss, _ = JOBS[name]
    path = folder / f"{name}.yaml"
    path.write_text(JOB.format(model=model, data=data, loss=loss, steps=steps) + plugins)
    return path


def weights(run):
    return json.loads((run / "run.json").read_text())["weights_sha256"]


@pytest.mark.parametrize("name", JOBS)
def test_one_seed_gives_one_set_of_weights_also_of_a_run_that_was_killed(folder, tmp_path, name):
    job = write(folder, name, 40, PLUGINS.format(augment=JOBS[name][3]))
    flags = ("--set", "checkpoint_every=5", "--set", "eval_every=10")
    call(COMMAND, "train", job, *flags, "--out", tmp_path / "whole", cwd=folder)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    killed = subprocess.Popen(
        [COMMAND, "train", job, *flags, "--out", tmp_path / "killed"],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while not list((tmp_path / "killed" / "checkpoints").glob("step-0000001?")) and killed.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert killed.poll() is None, "it has ended before it could be killed"
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()

    call(COMMAND, "train", "--resume", tmp_path / "killed", cwd=folder)

    assert weights(tmp_path / "killed") == weights(tmp_path / "whole") is not None


def loss_of(name, outputs, targets):
    if name == "boxes":
        found = targets["labels"][:, :1] >= 0
        return ((outputs - targets["boxes"][:, 0] / 6) * found).square().mean()
    return (functional.mse_loss if name == "table" else functional.cross_entropy)(outputs, targets)


@pytest.mark.parametrize("name", JOBS)
def test_the_same_loop_in_plain_pytorch_ends_with_the_same_weights(folder, tmp_path, name):
    """With two batches a step, of which the last are short, and with uneven numbers of tokens."""
    prepared = prepare(read_job(write(folder, name, 7, PLAIN)), folder)
    setup = prepared.setup
    plain = {key: value.clone() for key, value in setup.model.state_dict().items()}
    execute(prepared, tmp_path / "run", RunOptions(report=False))
    trained = {key: value.clone() for key, value in setup.model.state_dict().items()}

    model, data = setup.model, setup.data
    model.load_state_dict(plain)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    mean, std = (None if x is None else torch.tensor(x).view(1, -1, 1, 1) for x in (data.mean, data.std))
    seed, count = prepared.job_file.job.seed, len(data.train)
    steps = []
    for epoch in range(4):
        # Texts of like lengths come together; all else stays in the order that was drawn.
        places = data.train.arranged(epoch_order(count, seed, epoch), 7, seed, epoch)
        steps += [rows.split(7) for rows in data.train.rows_at(places).split(14)]
    for batches in steps[:7]:
        parts = [data.train.batch(rows) for rows in batches]
        counts = [
            int((part.targets != -100).sum()) if name in {"next", "masks"} else len(part) for part in parts
        ]
        optimizer.zero_grad()
        for part, count in zip(parts, counts, strict=True):
            inputs = part.inputs if mean is None else (part.inputs - mean) / std
            loss = loss_of(name, forward(model, inputs), part.targets)
            (loss / (sum(counts) / count) if len(parts) > 1 else loss).backward()
        optimizer.step()

    assert len(data.train) == 23
    found = model.state_dict()
    assert all(torch.equal(found[key], trained[key]) for key in trained)
    assert not all(torch.equal(plain[key], trained[key]) for key in trained)
