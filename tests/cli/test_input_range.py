"""Images of other numbers than grey levels are told before the start, with the place in the job."""

import numpy as np
import pytest

JOB = """model: {name: mlp, hidden: [8]}
data: {name: arrays, path: d.npz}
steps: 2
plugins:
  - augment: {ops: [flip, invert]}
  - optim: {algorithm: adamw, lr: 1e-3}
"""


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Float images of which one number, in the last batch that training would come to, is no level."""

    def write(number):
        inputs = np.random.default_rng(0).random((40, 1, 8, 8), np.float32)
        inputs[-1, 0, 0, 0] = number
        np.savez(tmp_path / "d.npz", inputs=inputs, targets=np.arange(40) % 2, test_inputs=inputs[:4],
                 test_targets=np.arange(4) % 2)  # fmt: skip

    monkeypatch.chdir(tmp_path)
    return write


def test_one_number_that_is_no_level_is_told_before_the_start(ringfence, job, images, tmp_path):
    images(7)
    done = ringfence("train", job(JOB), "--out", "run")
    assert done.status == 2
    assert (
        "job.yaml:5:27: plugins[0].augment.ops[1]: plugin 'augment' says: invert: it works on grey "
        in done.err
    )
    assert "and the inputs reach from " in done.err
    assert " to 7; give images of 0 to 255 as uint8 or divide them by 255" in done.err
    assert not (tmp_path / "run").exists()


def test_levels_are_trained_on(ringfence, job, images):
    images(1)
    assert ringfence("train", job(JOB), "--out", "run").status == 0
