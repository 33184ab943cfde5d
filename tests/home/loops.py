"""The same small job in a run, in a plain loop, in Lightning and in transformers; run by ``test_loops.py``.

``loops.py LOOP FOLDER`` trains with the plugins of ``plugins.json`` in FOLDER, once for each list there, and
prints a line of JSON for each: the digest of the weights, the faults, what was logged, and what is left. With
``resumed`` behind it the second half goes on from a checkpoint of the framework's own, with a new host.
"""

import json
import logging
import math
import sys
import warnings
from pathlib import Path

import ringfence  # before everything else, as programs do

import psutil  # isort: skip
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ringfence.engine.data import Dataset, Plan, batches
from ringfence.engine.weights import weights_sha256
from ringfence.reproducibility.deterministic import repeatable

SAMPLES, BATCH, EPOCHS, CLASSES, SEED = 60, 8, 2, 4, 5
STEPS = EPOCHS * math.ceil(SAMPLES / BATCH)
KEYS = {"batch_keys": ("inputs", "targets"), "num_classes": CLASSES, "seed": SEED}


class Net(nn.Module):
    """Called as a model of transformers is: it computes its loss where it is given targets."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES)
        )

    def forward(self, inputs, targets=None, indices=None):
        logits = self.layers(inputs)
        if targets is None:
            return logits
        return {"loss": cross_entropy(logits, targets), "logits": logits}


def net():
    return Net()


def dataset():
    generator = torch.Generator().manual_seed(2)
    inputs = torch.rand(SAMPLES, 1, 8, 8, generator=generator)
    return Dataset(inputs, torch.randint(CLASSES, (SAMPLES,), generator=generator), CLASSES)


def data():
    made = dataset()
    return (made.inputs, made.targets), (made.inputs, made.targets)


class Epochs:
    """The batches of a run, those of the next epoch at each pass, as dicts."""

    def __init__(self, first=0):
        self.dataset = dataset()  # of which transformers asks how many samples there are
        self._plan = Plan(SAMPLES, BATCH)
        self._step = first * self._plan.steps_per_epoch

    def __len__(self):
        return self._plan.steps_per_epoch

    def __iter__(self):
        first, self._step = self._step, self._step + len(self)
        found = batches(
            self.dataset,
            self._plan,
            SEED,
            first_step=first,
            steps_total=self._step,
            lr_factor=lambda _: 1.0,
        )
        for batch, _ in found:
            yield {"inputs": batch.inputs, "targets": batch.targets, "indices": batch.indices}


def in_a_plain_loop(model, host, epochs, folder, *, resume):
    state = torch.load(folder / "state.pt", weights_only=True) if resume else None
    if state is not None:
        model.load_state_dict(state["model"])
        host.load_state_dict(state["plugins"])
    while host.global_step < epochs * len(EPOCH_BATCHES[0]):
        for batch in host.augment(EPOCH_BATCHES[0]):
            outputs = model(batch["inputs"])
            host.loss(batch, outputs, cross_entropy(outputs, batch["targets"])).backward()
            host.step()
    torch.save({"model": model.state_dict(), "plugins": host.state_dict()}, folder / "state.pt")


def in_lightning(model, host, epochs, folder, *, resume):
    from pytorch_lightning import LightningModule, Trainer
    from pytorch_lightning.callbacks import ModelCheckpoint

    from ringfence.integrations.lightning import LightningCallback

    assert isinstance(model, LightningModule)
    trainer = Trainer(
        callbacks=[LightningCallback(host), ModelCheckpoint(folder, save_last=True, save_top_k=0)],
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        deterministic="warn",
    )
    model.host = [host]  # in a list, as a module would take it for one of its own
    trainer.fit(model, host.augment(EPOCH_BATCHES[0]), ckpt_path=folder / "last.ckpt" if resume else None)


def lightning_module():
    from pytorch_lightning import LightningModule

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def training_step(self, batch, _):
            (host,) = self.host
            outputs = self.net(batch["inputs"])
            return host.loss(batch, outputs, cross_entropy(outputs, batch["targets"]))

        def configure_optimizers(self):
            return self.host[0].optimizer

    return Module()


def in_transformers(model, host, epochs, folder, *, resume):
    from transformers import Trainer, TrainingArguments

    from ringfence.integrations.transformers import TransformersCallback

    class OverEpochs(Trainer):
        def get_train_dataloader(self):
            return EPOCH_BATCHES[0]

    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        max_grad_norm=0,
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to=[],
        save_strategy="epoch",
        disable_tqdm=True,
        full_determinism=False,
        seed=SEED,
    )
    trainer = OverEpochs(model, arguments, train_dataset=EPOCH_BATCHES[0].dataset)
    TransformersCallback(host).attach(trainer)
    trainer.train(resume_from_checkpoint=resume)


LOOPS = {"plain": in_a_plain_loop, "lightning": in_lightning, "transformers": in_transformers}
#: The loader of the training under way.
EPOCH_BATCHES = [Epochs()]


def train(loop, plugins, folder, epochs=EPOCHS, *, resume=False):
    """Train once, and tell of it."""
    EPOCH_BATCHES[0] = Epochs(epochs - 1 if resume else 0)
    model = lightning_module() if loop == "lightning" else Net()
    started, found = set(), {"error": ""}

    def look(_=""):
        started.update(psutil.Process().children(recursive=True))

    with repeatable(), ringfence.plugin_host(plugins, model=model, tell=look, **KEYS) as host:
        look()
        try:
            LOOPS[loop](model.train(), host, epochs, folder, resume=resume)
        except ringfence.RunAbortedError as error:
            found["error"] = str(error)
        look()
        report = host.report()
    found |= {
        "faults": [(fault.plugin, fault.error, fault.decision) for fault in report.faults],
        "logged": sorted({name.partition("/")[0] for name in report.logged}),
        "steps": report.steps,
    }
    gone, alive = psutil.wait_procs(started, timeout=10)
    weights = model.net if loop == "lightning" else model
    return {**found, "sha256": weights_sha256(weights), "started": len(gone), "left": len(alive)}


def run(folder, plugins):
    """Train with ``ringfence train``'s own engine."""
    from ringfence.job.job_file import check_job
    from ringfence.job.yaml_document import dump_yaml, parse_yaml
    from ringfence.run.execute import RunOptions, execute
    from ringfence.run.prepare import prepare

    job = {
        "model": "loops:net",
        "data": "loops:data",
        "validation_fraction": 0,  # all samples are trained on, as in the loops
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "seed": SEED,
        "threads": 1,
        "plugins": plugins,
    }
    ready = prepare(check_job(parse_yaml(dump_yaml(job), "a job")), Path(__file__).parent)
    outcome = execute(ready, folder / "run", RunOptions(report=False))
    return {"sha256": outcome.result.weights_sha256, "steps": outcome.result.steps}


def main(loop, folder, resumed=""):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for plugins in json.loads((folder / "plugins.json").read_text()):
        if resumed:
            train(loop, plugins, folder, EPOCHS - 1)
        told = run(folder, plugins) if loop == "run" else train(loop, plugins, folder, resume=bool(resumed))
        sys.stdout.write(f"{json.dumps(told)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
