"""A run that is resumed keeps the split that it began with, whatever its series, to the same weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ringfence.engine.checkpoints import manifest
from ringfence.engine.checkpoints.fingerprint_diff import CONTENTS, HELD_OUT
from ringfence.hooks.errors import CheckpointError
from ringfence.job.job_file import read_job
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare

JOB = """\
model: {{name: mlp, hidden: [8]}}
data: {data}
steps: 4
batch_size: 16
eval_every: 2
threads: 1
plugins:
  - optim: {{algorithm: adamw, lr: 1e-3}}
    isolation: trusted
"""


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with arrays and photos that bring validation samples, and arrays that do not."""
    folder, draw = tmp_path_factory.mktemp("split"), np.random.default_rng(0)
    arrays = {}
    for part, count in {"": 60, "test_": 20, "validation_": 15}.items():
        arrays[f"{part}inputs"] = draw.random((count, 6), dtype=np.float32)
        arrays[f"{part}targets"] = np.arange(count) % 3
    np.savez(folder / "d.npz", **arrays)
    np.savez(folder / "plain.npz", **{k: v for k, v in arrays.items() if "validation" not in k})
    for part, count in (("train", 30), ("val", 9), ("test", 8)):
        for name in ("a", "b"):
            place = folder / "photos" / part / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(place / f"{i:02}.png")
    return folder


def start(base, out, data="mnist10k", resumed=False, **changes):
    """Run a job, or go on with one; return ``run.json``."""
    (base / "job.yaml").write_text(JOB.format(data=data))
    job = read_job(base / "job.yaml", [f"{key}={value}" for key, value in changes.items()])
    prepared = prepare(job, base, resume=out if resumed else None)
    execute(prepared, out, RunOptions(resume=resumed, report=False))
    return json.loads((out / "run.json").read_text())


def make_old(out: Path, *, tells_data: bool, judged_by: str = "test") -> None:
    """Have the checkpoints of a run say what 0.3.1 wrote, or 0.3.0, which knew no validation part."""
    for path in (out / "checkpoints").glob("step-*"):
        told = json.loads((path / manifest.NAME).read_text())
        told.pop("digest")
        told["version"] = "0.3.1" if tells_data else "0.3.0"
        values = told["fingerprint"]
        del values[HELD_OUT]
        contents = values.pop(CONTENTS)
        if tells_data:
            values[CONTENTS] = {"train": contents["train"], "test": contents[judged_by]}
            if "normalisation" in contents:
                values[CONTENTS]["normalisation"] = contents["normalisation"]
        (path / manifest.NAME).unlink()
        (path / manifest.NAME).write_bytes(manifest.encode(told))
    shutil.rmtree(out / "checkpoints" / "best", ignore_errors=True)


@pytest.mark.room
@pytest.mark.parametrize(
    ("data", "tells_data", "judged_by"),
    [
        ("{name: mnist10k, limit: 80}", False, "test"),
        ("{name: arrays, path: used.npz}", True, "test"),
        ("{name: folder, path: photos}", True, "validation"),
    ],
    ids=["mnist 0.3.0", "arrays 0.3.1", "photos 0.3.1"],
)
def test_a_run_from_before_goes_on_as_it_began_to_the_same_weights(
    base, tmp_path, data, tells_data, judged_by
):
    # What such a run did: it knew no validation part but that of photos, and called it test.
    shutil.copy(base / "plain.npz", base / "used.npz")
    straight = start(base, tmp_path / "straight", data, steps=8, validation_fraction=0)
    start(base, tmp_path / "run", data, validation_fraction=0)
    make_old(tmp_path / "run", tells_data=tells_data, judged_by=judged_by)
    # The file had keys all along that nobody read then.
    shutil.copy(base / "d.npz", base / "used.npz")
    record = start(base, tmp_path / "run", data, resumed=True, steps=6)
    assert (record["judged_by"], record["resumed"]) == (judged_by, 1)
    told = [note for note in record["data_notes"] if note.startswith("the run began with ringfence 0.3.")]
    assert len(told) == (judged_by == "test")
    # The next checkpoint is of this series; it goes on so all the same.
    again = start(base, tmp_path / "run", data, resumed=True, steps=8)
    assert again["weights_sha256"] == straight["weights_sha256"]
    assert again["final_metrics"] == straight["final_metrics"]
    # The control: the same job, begun now, is judged by validation data.
    assert start(base, tmp_path / "new", data)["judged_by"] == "validation"


def test_a_run_from_before_cannot_begin_to_hold_out_samples(base, tmp_path):
    data = "{name: mnist10k, limit: 80}"
    start(base, tmp_path / "run", data, validation_fraction=0)
    make_old(tmp_path / "run", tells_data=True)
    with pytest.raises(CheckpointError, match=r"validation_fraction: 0\.0 in the checkpoint, 0\.2"):
        start(base, tmp_path / "run", data, resumed=True, steps=8, validation_fraction=0.2)


@pytest.mark.room
@pytest.mark.parametrize("fraction", [0.25, 0])
def test_a_job_that_does_not_say_goes_on_with_the_share_that_the_run_began_with(base, tmp_path, fraction):
    data = "{name: mnist10k, limit: 80}"
    straight = start(base, tmp_path / "straight", data, steps=8, validation_fraction=fraction)
    start(base, tmp_path / "run", data, validation_fraction=fraction)
    assert f"validation_fraction: {float(fraction)}\n" in (tmp_path / "run" / "job.yaml").read_text()
    record = start(base, tmp_path / "run", data, resumed=True, steps=8)
    assert record["weights_sha256"] == straight["weights_sha256"]
    assert record["test_metrics"] == straight["test_metrics"]


def test_a_checkpoint_that_cannot_be_read_says_nothing_of_the_split(base, tmp_path):
    data = "{name: mnist10k, limit: 80}"
    start(base, tmp_path / "run", data, validation_fraction=0.25)
    newest = tmp_path / "run" / "checkpoints" / "step-00000004" / manifest.NAME
    newest.write_text(newest.read_text().replace("0.25", "0.75"))
    record = start(base, tmp_path / "run", data, resumed=True)
    assert record["resumed"] == 1
    assert "validation_fraction: 0.25\n" in (tmp_path / "run" / "job.yaml").read_text()
