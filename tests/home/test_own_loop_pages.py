"""The pages on loops of one's own: what they show runs as it stands, in each framework."""

import re

import pytest

from ..conftest import ROOT, call

pytestmark = [pytest.mark.room, pytest.mark.timeout(1200)]

#: What the pages leave to the reader.
MINE = """
import ringfence
import torch
from torch import nn

torch.manual_seed(0)
criterion = nn.functional.cross_entropy


def samples(*shape):
    return torch.rand(24, *shape), torch.randint(10, (24,))


loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*samples(1, 8, 8)), batch_size=8)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
HOST = """
with ringfence.plugin_host(["gradclip"], model=model, optimizer=optimizer) as host:
"""
MODULE = """
from pytorch_lightning import LightningModule


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def training_step(self, batch, _):
        return criterion(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("loss", criterion(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


module, train_loader, val_loader = Module(), loader, loader
"""
TRAINER = """
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

config = ViTConfig(
    image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=16, num_labels=10,
)
model = ViTForImageClassification(config)
images, labels = samples(1, 8, 8)
dataset = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels)]
arguments = TrainingArguments(
    output_dir="out", num_train_epochs=1, use_cpu=True, report_to=[], save_strategy="no"
)
"""
#: Page, what a block of it says, what stands before it, and the steps that are then taken.
BLOCKS = [
    ("own-loop.md", "for epoch in range(3)", "", 9),
    ("own-loop.md", "from ignite.engine", HOST, 9),
    ("own-loop.md", "from accelerate import", "", 3),
    ("own-loop-lightning.md", "LightningCallback", MODULE, 9),
    ("own-loop-transformers.md", "TransformersCallback", TRAINER, 3),
]


def block(page, says):
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL
    )
    (found,) = [text for text in blocks if says in text]
    return found.replace("somebodys-augmentation", "label-noise")


@pytest.mark.parametrize(("page", "says", "before", "steps"), BLOCKS, ids=lambda value: str(value)[:24])
def test_what_a_page_shows_runs(framework_environment, tmp_path, page, says, before, steps):
    text = block(page, says)
    if before == HOST:
        text = "".join(f"    {line}" for line in text.splitlines(keepends=True))
    (tmp_path / "program.py").write_text(f"{MINE}{before}{text}\nprint('steps', host.global_step)\n")

    done = call(framework_environment.python, "program.py", cwd=tmp_path, timeout=300)

    assert f"steps {steps}" in done.stdout, done.stdout + done.stderr
