"""Runs that tests of what starts from a run share: one that was trained on photos, and one on numbers."""

import pytest
import torch
from PIL import Image

from ringfence.job.job_file import read_job
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare

JOB = """\
model: {model}
data: {data}
loss: {loss}
steps: 4
batch_size: 8
threads: 1
plugins:
  - optim: {{algorithm: sgd, lr: 0.1}}
    isolation: trusted
"""
#: So that a spreadsheet would count, and a class of no word.
CLASSES = ("=2+2", "cat", "dog")
NETS = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_outputs):
        super().__init__()
        self.last = nn.Linear(6, num_outputs)

    def forward(self, inputs):
        return self.last(inputs)

def numbers():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    return (x[:30], x[:30, :2]), (x[30:], x[30:, :2])
"""


def train(folder, name, **job):
    """Run a job; return what it prepared."""
    path = folder / f"{name}.yaml"
    path.write_text(JOB.format(**job))
    prepared = prepare(read_job(path), folder)
    execute(prepared, folder / name, RunOptions(report=False))
    return prepared


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder with photos, a run that was trained on them, one of numbers, and what they prepared."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "regression_net.py").write_text(NETS)
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 6), ("test", 3)):
        for brightness, name in enumerate(CLASSES):
            (folder / "photos" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(60, (9, 11, 3), generator=generator) + 80 * brightness
                image = Image.fromarray(pixels.to(torch.uint8).numpy())
                image.save(folder / "photos" / part / name / f"{i}.png")
    threads = torch.get_num_threads()
    data = "{name: folder, path: photos, size: [8, 10]}"
    prepared = {
        "photos_run": train(folder, "photos_run", model="mlp", data=data, loss="cross_entropy"),
        "numbers_run": train(
            folder,
            "numbers_run",
            model='"regression_net:Net"',
            data='"regression_net:numbers"',
            loss="mse",
        ),
    }
    torch.set_num_threads(threads)
    return folder, prepared
