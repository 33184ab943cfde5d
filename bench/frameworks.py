"""One training task, trained by a plain loop, by ringfence, and by the frameworks that people use.

All are given the same model, the same optimizer and the same batches in the same order, ready made, so that
none pays for a way to load data that it could do without. Each is set up as sparsely as it can be: no
checkpoints, no logs, no bars.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from harness import Asking
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ringfence.engine.config import TrainConfig
from ringfence.engine.data import Data, Dataset, epoch_order
from ringfence.engine.train import train
from ringfence.engine.trial import try_together
from ringfence.engine.weights import weights_sha256
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.manager import Hooks
from ringfence.tracking.metrics_log import MetricsLog

_CLASSES = 10


@dataclass(frozen=True)
class Task:
    """What is trained, with AdamW.

    Attributes:
        make_model: Makes the model; it starts from the same weights each time.
        inputs: (N, …) float32.
        targets: (N,) int64.
        batch_size: Samples of a step.
        steps: How many are taken.
    """

    make_model: Callable[[], nn.Module]
    inputs: Tensor
    targets: Tensor
    batch_size: int
    steps: int

    def model(self) -> nn.Module:
        """Return the model with its first weights."""
        torch.manual_seed(0)
        return self.make_model().train()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer, which is the one that ringfence takes for ``adamw``."""
        return torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


def random_task(
    make_model: Callable[[], nn.Module], shape: tuple[int, ...], batch_size: int, steps: int
) -> Task:
    """Return a task over random numbers; 32 batches make an epoch."""
    generator = torch.Generator().manual_seed(0)
    count = 32 * batch_size
    inputs = torch.rand((count, *shape), generator=generator)
    targets = torch.randint(0, _CLASSES, (count,), generator=generator)
    return Task(make_model, inputs, targets, batch_size, steps)


@dataclass
class Batches:
    """The batches of a task in ringfence's order; notes when each is asked for."""

    task: Task
    stamps: list[float] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        task, size = self.task, self.task.batch_size
        per_epoch = len(task.inputs) // size
        for step in range(task.steps):
            self.stamps.append(time.perf_counter())
            epoch, begin = step // per_epoch, step % per_epoch * size
            if begin == 0:
                order = epoch_order(len(task.inputs), 0, epoch)
            indices = order[begin : begin + size]
            yield task.inputs.index_select(0, indices), task.targets.index_select(0, indices)


@dataclass(frozen=True)
class Trained:
    """What came of it.

    Attributes:
        stamps: When each step began, in seconds.
        sha256: Of the weights.
    """

    stamps: list[float]
    sha256: str


def plain(task: Task) -> Trained:
    """Train as the tutorial of PyTorch does."""
    model, batches = task.model(), Batches(task)
    optimizer = task.optimizer(model)
    for inputs, targets in batches:
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return Trained(batches.stamps, weights_sha256(model))


def adamw(isolation: Any, **settings: Any) -> PluginSpec:
    """Describe the builtin optimizer plugin with AdamW."""
    return PluginSpec(
        "optim",
        "ringfence",
        "0",
        "ringfence.builtin.optim",
        "Optim",
        "optimizer",
        # Vectors decay as well, as they do by torch's own default.
        options={"algorithm": "adamw", "lr": 1e-3, "no_decay": []},
        isolation=isolation,
        **settings,
    )


def ringfence(task: Task, recorder: MetricsLog | None = None) -> Trained:
    """Train with the engine and the trusted optimizer, and nothing else.

    Args:
        task: What to train.
        recorder: Writes the record of the run; nothing is written without.
    """
    stamps: list[float] = []

    def between_steps() -> bool:
        stamps.append(time.perf_counter())
        return False

    dataset = Dataset(task.inputs, task.targets, _CLASSES)
    test = Dataset(task.inputs[:1], task.targets[:1], _CLASSES)
    spec = adamw("trusted", threads=torch.get_num_threads())
    model = task.model()
    config = TrainConfig(
        steps=task.steps, batch_size=task.batch_size, eval_every=10**9, checkpoint_every=10**9, device="cpu"
    )
    with closing(Hooks(0, recorder)) as hooks:
        hooks.register(LocalPlugin(spec))
        train(
            try_together(model, Data(dataset, test), config),
            hooks,
            observer=recorder,
            stop=Asking(between_steps),
        )
    return Trained(stamps, weights_sha256(model))


def ringfence_recorded(task: Task) -> Trained:
    """Train as ``ringfence``, with the record that each run of the command leaves."""
    with (
        tempfile.TemporaryDirectory(prefix="ringfence-bench-") as folder,
        closing(MetricsLog(Path(folder))) as recorder,
    ):
        return ringfence(task, recorder)


def lightning(task: Task) -> Trained:
    """Train with a ``Trainer(barebones=True)``, which is Lightning's own way to be measured."""
    import pytorch_lightning as pl  # noqa: PLC0415 - seconds, and not every row needs it

    class Module(pl.LightningModule):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return task.optimizer(self.model)

    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    model, batches = task.model(), Batches(task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(barebones=True, accelerator="cpu", max_steps=task.steps, max_epochs=-1)
        trainer.fit(Module(model), batches)
    return Trained(batches.stamps, weights_sha256(model))


def ignite(task: Task) -> Trained:
    """Train with Ignite's supervised trainer."""
    from ignite.engine import create_supervised_trainer  # noqa: PLC0415 - as above

    model, batches = task.model(), Batches(task)
    trainer = create_supervised_trainer(
        model, task.optimizer(model), cross_entropy, device="cpu", output_transform=lambda *_: None
    )
    trainer.run(batches, max_epochs=1, epoch_length=task.steps)
    return Trained(batches.stamps, weights_sha256(model))


def accelerate(task: Task) -> Trained:
    """Train with the loop of Accelerate's tutorial; the batches need no preparing."""
    from accelerate import Accelerator  # noqa: PLC0415 - as above

    model, batches = task.model(), Batches(task)
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, task.optimizer(model))
    for inputs, targets in batches:
        optimizer.zero_grad()
        accelerator.backward(cross_entropy(prepared(inputs), targets))
        optimizer.step()
    return Trained(batches.stamps, weights_sha256(model))


def hf_trainer(task: Task) -> Trained:
    """Train with the Trainer of transformers."""
    from transformers import PrinterCallback, Trainer, TrainingArguments  # noqa: PLC0415 - as above

    class Bare(Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return _AsDicts(batches)

        def compute_loss(
            self,
            model: nn.Module,
            inputs: Mapping[str, Tensor],
            return_outputs: bool = False,  # noqa: ARG002, FBT001, FBT002 - its signature
            num_items_in_batch: int | None = None,  # noqa: ARG002 - as above
        ) -> Tensor:
            return cross_entropy(model(inputs["inputs"]), inputs["targets"])

    model, batches = task.model(), Batches(task)
    optimizer = task.optimizer(model)
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=task.steps,
            max_grad_norm=0.0,
            use_cpu=True,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        trainer = Bare(model, arguments, train_dataset=[0], optimizers=(optimizer, scheduler))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return Trained(batches.stamps, weights_sha256(model))


class _AsDicts:
    """Batches as this Trainer wants them."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return ({"inputs": inputs, "targets": targets} for inputs, targets in self._batches)

    def __len__(self) -> int:
        return self._batches.task.steps
