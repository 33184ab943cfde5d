"""Row 8: what four sandboxed plugins cost a step in three loops, beside the same jobs without."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from frameworks import Batches, Task, random_task
from harness import Figure, Row, Table, difference, in_turn, pin_threads, ratio
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ringfence import plugin_host
from ringfence.integrations.loop_host import LoopHost

_MAX_NORM = 1.0
_PLUGINS: list[Any] = [
    {"augment": {"ops": ["flip"]}},
    {"gradclip": {"max_norm": _MAX_NORM}},
    {"monitor": {"bins": 16}, "every": 10},
    {"optim": {"algorithm": "adamw", "lr": 1e-3}},
]
_WITH = ", four sandboxed plugins"
_UNSAVED = ", save_every=0"


def _convnet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1568, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def _small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


class Loader:
    """The batches of a task as all three loops take them: dicts, a number of them known."""

    def __init__(self, task: Task) -> None:
        self.batches = Batches(task)
        #: Of this process, in seconds, as each was asked for.
        self.processor: list[float] = []

    def __len__(self) -> int:
        return self.batches.task.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for inputs, targets in self.batches:
            self.processor.append(time.process_time())
            yield {"inputs": inputs, "targets": targets}


class Flipping(Loader):
    """The same, flipped as the plugin does, in the loop's own process."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for batch in super().__iter__():
            chosen = torch.rand(len(batch["inputs"]), generator=generator) < 0.5  # noqa: PLR2004 - a coin
            flipped = torch.where(chosen[:, None, None, None], batch["inputs"].flip(-1), batch["inputs"])
            yield {**batch, "inputs": flipped}


def _clip(model: nn.Module) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_NORM)


def plain(task: Task, model: nn.Module, loader: Any, host: LoopHost | None) -> None:
    """Train in a plain loop."""
    optimizer = task.optimizer(model) if host is None else None
    for batch in loader if host is None else host.augment(loader):
        outputs = model(batch["inputs"])
        loss = cross_entropy(outputs, batch["targets"])
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            _clip(model)
            optimizer.step()
        elif host is not None:
            host.loss(batch, outputs, loss).backward()
            host.step()


def lightning(task: Task, model: nn.Module, loader: Any, host: LoopHost | None) -> None:
    """Train with Lightning, without what is not asked for."""
    import pytorch_lightning as pl  # noqa: PLC0415 - seconds, and not every row needs it

    from ringfence.integrations.lightning import LightningCallback  # noqa: PLC0415 - as above

    assert isinstance(model, pl.LightningModule)
    model.host = [host]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=_MAX_NORM if host is None else None,
        callbacks=[] if host is None else [LightningCallback(host)],
    )
    trainer.fit(model, loader if host is None else host.augment(loader))
    del task


def _module(task: Task) -> nn.Module:
    import pytorch_lightning as pl  # noqa: PLC0415 - as above

    for name in ("pytorch_lightning", "lightning.pytorch", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = task.model()

        def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
            outputs = self.net(batch["inputs"])
            loss = cross_entropy(outputs, batch["targets"])
            (host,) = self.host
            return loss if host is None else host.loss(batch, outputs, loss)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            (host,) = self.host
            return task.optimizer(self.net) if host is None else host.optimizer

    return Module()


def hf_trainer(task: Task, model: nn.Module, loader: Any, host: LoopHost | None) -> None:
    """Train with the Trainer of transformers."""
    from transformers import PrinterCallback, Trainer, TrainingArguments  # noqa: PLC0415 - as above

    from ringfence.integrations.transformers import TransformersCallback  # noqa: PLC0415 - as above

    class Bare(Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return loader

        def compute_loss(
            self,
            model: nn.Module,
            inputs: dict[str, Tensor],
            return_outputs: bool = False,  # noqa: FBT001, FBT002 - its signature
            num_items_in_batch: int | None = None,  # noqa: ARG002 - as above
        ) -> Any:
            outputs = model(inputs["inputs"])
            loss = cross_entropy(outputs, inputs["targets"])
            return (loss, {"logits": outputs}) if return_outputs else loss

    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=task.steps,
            max_grad_norm=_MAX_NORM if host is None else 0.0,
            use_cpu=True,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        optimizer = task.optimizer(model) if host is None else host.optimizer
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        trainer = Bare(model, arguments, train_dataset=[0], optimizers=(optimizer, scheduler))
        trainer.remove_callback(PrinterCallback)
        if host is not None:
            TransformersCallback(host).attach(trainer)
        trainer.train()


_PLAIN = "plain loop"
_LOOPS: dict[str, tuple[Callable[..., None], Callable[[Task], nn.Module]]] = {
    _PLAIN: (plain, Task.model),
    "pytorch-lightning": (lightning, _module),
    "transformers Trainer": (hf_trainer, Task.model),
}


def measure(quick: bool) -> list[Table]:  # noqa: FBT001 - as all rows
    """Train two models in every loop, with and without."""
    pin_threads()
    rounds, steps = (2, 40) if quick else (4, 200)
    models = (("model of 101,770", _small), ("convnet of 105,866", _convnet))[: 1 if quick else 2]
    warnings.simplefilter("ignore")
    return [
        _table(f"{what} parameters, batch 64", random_task(make, (1, 28, 28), 64, steps), rounds)
        for what, make in models
    ]


def _mean_span(stamps: list[float]) -> float:
    """Return the mean of a step: the first import what optimizers need, the last are fetched ahead."""
    begin, end = len(stamps) // 4, len(stamps) - 4
    return (stamps[end] - stamps[begin]) / (end - begin)


def _table(what: str, task: Task, rounds: int) -> Table:
    processor: dict[str, list[float]] = defaultdict(list)

    def side(name: str, *, plugins: bool, save_every: int = 1) -> Callable[[], float]:
        train, make = _LOOPS[name]
        told = f"{name}{_WITH * plugins}{_UNSAVED * (not save_every)}"

        def once() -> float:
            model = make(task)
            if plugins:
                loader = Loader(task)
                with plugin_host(_PLUGINS, model=model, num_classes=10, save_every=save_every) as host:
                    train(task, model, loader, host)
                    assert host.global_step == task.steps
                    assert not host.report().faults
            else:
                loader = Flipping(task)
                train(task, model, loader, None)
            processor[told].append(_mean_span(loader.processor))
            return _mean_span(loader.batches.stamps)

        return once

    sides = {
        f"{name}{_WITH * plugins}": side(name, plugins=plugins)
        for name in _LOOPS
        for plugins in (False, True)
    }
    sides[f"{_PLAIN}{_WITH}{_UNSAVED}"] = side(_PLAIN, plugins=True, save_every=0)
    figures = in_turn(sides, rounds)
    columns = ("", "mean step", "more than without", "times without", "processor time of the trainer")
    table = Table(f"One step of a {what}", columns)
    for name, figure in figures.items():
        bare = name.removesuffix(_UNSAVED).removesuffix(_WITH)
        told: tuple[Figure | str, Figure | str] = ("", "")
        if name != bare:
            told = difference(figures, name, bare), ratio(figures, name, bare)
        table.lines.append((name, figure, *told, Figure(tuple(processor[name][-rounds:]))))
    table.notes = [
        "Without: the same flips, clip_grad_norm_ and fused AdamW in the loop's process; nothing watches.",
        "With: augment, gradclip, monitor (every 10 steps) and optim, each in a sandbox of its own.",
        f"{_UNSAVED.strip(', ')}: no state of the optimizer is kept, which otherwise is at every step.",
        "One thread. The first quarter of the steps is not counted, nor is the start of the sandboxes.",
    ]
    return table


ROW = Row(8, "Four sandboxed plugins in a plain loop, in Lightning and in transformers", measure)
