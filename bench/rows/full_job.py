"""Row 2: the main job with all its plugins sandboxed, beside the same work inline in plain PyTorch."""

from __future__ import annotations

import itertools
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch
import torch_optimizer
from harness import Asking, Figure, Goal, Row, Table, in_turn, pin_threads, ratio
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ringfence.builtin.augment import Augment
from ringfence.builtin.monitor import Monitor
from ringfence.datasets.dataset_registry import load_data
from ringfence.engine.config import TrainConfig
from ringfence.engine.data import Data, Normalise, Plan, epoch_order
from ringfence.engine.train import train
from ringfence.engine.trial import try_together
from ringfence.hooks.types import Batch, StepInfo, derive_seed
from ringfence.isolation.sandbox import Sandbox
from ringfence.models.model_registry import build_model
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.manager import Hooks
from ringfence.reproducibility.seeding import seed_run
from ringfence.tracking.metrics_log import MetricsLog

#: The job of examples/mnist10k.yaml, but for its length and its schedule.
_OPS: list[Any] = [{"affine": {"degrees": 10, "translate": 0.1, "scale": [0.9, 1.1], "p": 0.8}}]
_LAMB: Mapping[str, Any] = {"lr": 0.01, "weight_decay": 0.01}
_MAX_NORM, _EVERY, _BATCH_SIZE, _EVAL_BATCH_SIZE = 1.0, 20, 64, 512
_GOAL = 1.03
_PLAIN, _OURS, _LIGHTNING = "plain PyTorch", "ringfence, all sandboxed", "pytorch-lightning"

_Pair = tuple[Tensor, Tensor]


@dataclass
class _Trained:
    """One run of the job: when it began, when each step did, when it ended; its weights."""

    begun: float = field(default_factory=time.perf_counter)
    stamps: list[float] = field(default_factory=list)
    ended: float = 0.0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def stamp(self) -> bool:
        """Note that a step begins; as ``stop`` it never says so."""
        self.stamps.append(time.perf_counter())
        return False

    def finish(self, model: nn.Module) -> None:
        """Note that all is done."""
        self.ended = time.perf_counter()
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@dataclass(frozen=True)
class _Job:
    """What all three train."""

    data: Data
    epochs: int
    workers: int

    @property
    def plan(self) -> Plan:
        """Which samples make which step."""
        return Plan(len(self.data.train), _BATCH_SIZE)

    @property
    def steps(self) -> int:
        """Steps of the job."""
        return self.epochs * self.plan.steps_per_epoch

    def model(self) -> nn.Module:
        """Return the model with its first weights."""
        torch.manual_seed(derive_seed(0, "model"))
        return build_model("cnn", {"width": 24}, self.data, base=Path()).train()

    def loader(self) -> DataLoader[_Pair]:
        """Return batches that were augmented in workers by the very code of the plugin."""
        steps = _Augmented(self.data, self.plan, self.steps)
        # A generator of its own, so that the model's dropout draws what it does elsewhere.
        return DataLoader(
            steps,
            batch_size=None,
            sampler=range(self.steps),
            num_workers=self.workers,
            generator=torch.Generator(),
        )

    def test_batches(self) -> Iterator[_Pair]:
        """Yield the test data."""
        test = self.data.test
        for begin in range(0, len(test), _EVAL_BATCH_SIZE):
            batch = test.batch(torch.arange(begin, min(begin + _EVAL_BATCH_SIZE, len(test))))
            yield batch.inputs, batch.targets


class _Augmented(TorchDataset[_Pair]):
    """Step to its batch, augmented."""

    def __init__(self, data: Data, plan: Plan, steps: int) -> None:
        self._data, self._plan, self._steps = data.train, plan, steps
        self._augment = Augment(_OPS)
        self._epoch, self._order = -1, torch.empty(0)

    def __getitem__(self, step: int) -> _Pair:
        epoch = self._plan.epoch(step)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self._plan.samples, 0, epoch)
        begin = step % self._plan.steps_per_epoch * self._plan.batch_size
        batch = self._data.batch(self._order[begin : begin + self._plan.batch_size])
        info = StepInfo(step, epoch, steps_total=self._steps).for_plugin(0, "augment")
        changed = self._augment.forward(batch, info) or batch
        return changed.inputs, changed.targets


class _Watch:
    """The monitor's statistics, inline; writes them and the losses to one file."""

    def __init__(self, file: TextIO) -> None:
        self._monitor, self._file = Monitor(bins=64), file
        self._before: dict[str, Tensor] = {}

    def before(self, step: int, model: nn.Module) -> None:
        """Keep the parameters of a step that is looked at."""
        if step % _EVERY == 0:
            self._before = {name: value.detach().clone() for name, value in model.named_parameters()}

    def after(self, step: int, model: nn.Module, batch: _Pair, outputs: Tensor, loss: float) -> None:
        """Write what there is to say of a step."""
        self._write({"step": step, "loss": loss})
        if step % _EVERY:
            return
        with torch.no_grad():
            inputs, targets = batch
            seen = Batch(inputs, targets, torch.arange(len(inputs)), 10)
            values = {name: value.detach() for name, value in model.named_parameters()}
            updates: Any = {name: value - self._before[name] for name, value in values.items()}
            gradients: Any = {name: value.grad for name, value in model.named_parameters()}
            first = self._monitor.forward(seen, outputs.detach())
            second = self._monitor.backward(values, updates, gradients)  # type: ignore[arg-type]
        for report in (first, second):
            if report is not None:
                histograms = {n: [list(h.counts), list(h.edges)] for n, h in report.histograms.items()}
                self._write({"step": step, **report.scalars, "histograms": histograms})

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")


def _plain(job: _Job, folder: Path) -> _Trained:
    """Train as a careful user writes it."""
    trained, model = _Trained(), job.model()
    optimizer = torch_optimizer.Lamb(model.parameters(), **_LAMB)
    normalise = Normalise(job.data, torch.device("cpu"))
    batches = iter(job.loader())
    seed_run(0)
    with (folder / "metrics.jsonl").open("w") as file:
        watch = _Watch(file)
        trained.stamp()
        for step, (inputs, targets) in enumerate(batches):
            optimizer.zero_grad()
            outputs = model(normalise(inputs))
            loss = cross_entropy(outputs, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), _MAX_NORM)
            watch.before(step, model)
            optimizer.step()
            watch.after(step, model, (inputs, targets), outputs, loss.item())
            if (step + 1) % job.plan.steps_per_epoch == 0:
                _evaluate(model, normalise, job, file)
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state, folder / f"step-{step + 1}.pt")
            trained.stamp()
    trained.finish(model)
    return trained


def _evaluate(model: nn.Module, normalise: Normalise, job: _Job, file: TextIO) -> None:
    model.eval()
    loss, right = 0.0, 0
    with torch.no_grad():
        for inputs, targets in job.test_batches():
            outputs = model(normalise(inputs))
            loss += cross_entropy(outputs, targets).item() * len(inputs)
            right += int((outputs.argmax(1) == targets).sum())
    model.train()
    count = len(job.data.test)
    file.write(json.dumps({"loss": loss / count, "accuracy": right / count}) + "\n")


def _builtin(name: str, qualname: str, role: str, options: Mapping[str, Any], **more: Any) -> PluginSpec:
    module = f"ringfence.builtin.{name}"
    return PluginSpec(name, "ringfence", "0", module, qualname, role, options=options, **more)


def _ringfence(job: _Job, folder: Path) -> _Trained:
    """Train as ``ringfence train`` does, each plugin in a sandbox of its own."""
    trained, model = _Trained(), job.model()
    lamb = {"algorithm": "lamb", "no_decay": [], **_LAMB}
    specs = [
        _builtin("augment", "Augment", "augment", {"ops": _OPS}, workers=job.workers),
        _builtin("gradclip", "GradClip", "gradient", {"max_norm": _MAX_NORM}),
        _builtin("optim", "Optim", "optimizer", lamb),
        _builtin("monitor", "Monitor", "monitor", {"bins": 64}, every=_EVERY),
    ]
    config = TrainConfig(epochs=job.epochs, batch_size=_BATCH_SIZE, device="cpu")
    with ExitStack() as stack:
        recorder = stack.enter_context(closing(MetricsLog(folder)))
        sandbox = stack.enter_context(Sandbox(plugins=len(specs)))
        hooks = stack.enter_context(closing(Hooks(0, recorder)))
        for spec in specs:
            hooks.register(sandbox.start(spec))
        recorder.plugins_started(hooks.plugins, hooks.order())
        train(
            try_together(model, job.data, config),
            hooks,
            observer=recorder,
            checkpoints=folder / "checkpoints",
            allocate=sandbox.allocate,
            stop=Asking(trained.stamp),
        )
    trained.finish(model)
    return trained


def _lightning(job: _Job, folder: Path) -> _Trained:
    """Train with Lightning's trainer, logger and checkpoints."""
    import pytorch_lightning as pl  # noqa: PLC0415 - takes seconds
    from pytorch_lightning.loggers import CSVLogger  # noqa: PLC0415 - as above

    trained, model = _Trained(), job.model()
    normalise = Normalise(job.data, torch.device("cpu"))
    file = (folder / "metrics.jsonl").open("w")

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.watch = _Watch(file)
            self.seen: tuple[Tensor, float] | None = None

        def on_train_start(self) -> None:
            seed_run(0)
            trained.stamp()

        def training_step(self, batch: _Pair, _: int) -> Tensor:
            outputs = self.model(normalise(batch[0]))
            loss = cross_entropy(outputs, batch[1])
            self.log("loss", loss)
            self.seen = outputs, loss.item()
            self.watch.before(self.global_step, self.model)
            return loss

        def on_train_batch_end(self, _: Any, batch: _Pair, index: int) -> None:  # noqa: ARG002 - its signature
            assert self.seen is not None
            self.watch.after(self.global_step - 1, self.model, batch, *self.seen)
            trained.stamp()

        def validation_step(self, batch: _Pair, _: int) -> None:
            outputs = self.model(normalise(batch[0]))
            self.log("val_loss", cross_entropy(outputs, batch[1]))
            self.log("accuracy", (outputs.argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch_optimizer.Lamb(self.model.parameters(), **_LAMB)

    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), file:
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=job.steps,
            gradient_clip_val=_MAX_NORM,
            val_check_interval=job.plan.steps_per_epoch,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            logger=CSVLogger(folder),
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        # A generator of its own, as the loader of the training data has.
        test = DataLoader(_Listed(list(job.test_batches())), batch_size=None, generator=torch.Generator())
        trainer.fit(Module(), job.loader(), test)
    trained.finish(model)
    return trained


class _Listed(TorchDataset[_Pair]):
    """Batches that are there."""

    def __init__(self, batches: Sequence[_Pair]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> _Pair:
        return self._batches[index]


_SIDES: Mapping[str, Callable[[_Job, Path], _Trained]] = {
    _PLAIN: _plain,
    _OURS: _ringfence,
    _LIGHTNING: _lightning,
}


def measure(quick: bool) -> list[Table]:  # noqa: FBT001 - as all rows
    """Train the job with one worker on every side, then with two."""
    pin_threads()
    data = load_data("mnist10k", {}, base=Path())
    return [_table(_Job(data, 1, workers), 1 if quick else 5) for workers in (1, 2)]


def _table(job: _Job, rounds: int) -> Table:
    parts: dict[str, dict[str, list[float]]] = {name: {"start": [], "whole": []} for name in _SIDES}
    expected: dict[str, Tensor] = {}

    def side(name: str, run: Callable[[_Job, Path], _Trained]) -> Callable[[], float]:
        def once() -> float:
            with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as folder:
                trained = run(job, Path(folder))
            _check_equal(name, trained.weights, expected)
            parts[name]["start"].append(trained.stamps[0] - trained.begun)
            parts[name]["whole"].append(trained.ended - trained.begun)
            spans = [b - a for a, b in itertools.pairwise(trained.stamps)]
            # Evaluations, whose batches ask whether to stop as well, and checkpoints are in the whole only.
            return statistics.median(spans[job.steps // 4 :])

        return once

    figures = in_turn({name: side(name, run) for name, run in _SIDES.items()}, rounds, warm=0)
    wholes = {name: Figure(tuple(parts[name]["whole"])) for name in _SIDES}
    table = Table(
        f"The main job, {job.steps} steps, {job.workers} worker{'s' * (job.workers > 1)} for augmentation",
        ("", "median step", "by plain", "whole job", "by plain", "of it, start"),
    )
    for name, figure in figures.items():
        step, whole = ("" if name == _PLAIN else ratio(x, name, _PLAIN) for x in (figures, wholes))
        start = Figure(tuple(parts[name]["start"]))
        table.lines.append((name, figure, step, wholes[name], whole, start))
    what = f"{job.workers} worker{'s' * (job.workers > 1)}"
    ours = ratio(figures, _OURS, _PLAIN).median
    table.goals = [
        Goal(f"{what}: a step at most {_GOAL} x plain", ours, _GOAL, unit="x"),
        Goal(f"{what}: faster than Lightning", ratio(figures, _OURS, _LIGHTNING).median, 1.0, unit="x"),
    ]
    table.notes = [
        "All sides end with the same weights to 1e-4; each batch is the same to the bit.",
        "All evaluate and write a checkpoint after each epoch; all write losses and the monitor's findings.",
        "Start: from nothing to the first step, without imports; for ringfence zygote and sandboxes.",
    ]
    return table


def _check_equal(name: str, weights: Mapping[str, Tensor], expected: dict[str, Tensor]) -> None:
    """See that all runs end alike; norms are summed in another order by plain clipping."""
    if not expected:
        expected.update(weights)
    for key, tensor in weights.items():
        torch.testing.assert_close(
            tensor, expected[key], rtol=1e-4, atol=1e-4, msg=lambda text, key=key: f"{name}: {key}: {text}"
        )


ROW = Row(2, "The main job, all plugins sandboxed, beside the same work inline", measure)
