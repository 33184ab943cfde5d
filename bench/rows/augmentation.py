"""Row 4: how many samples a second come out of an albumentations pipeline, sandboxed and in a DataLoader."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from typing import Any

import albumentations
import cv2
import torch
from harness import Figure, Goal, Row, Table, in_turn, pin_threads, ratio
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ringfence.engine.data import Dataset, Plan, batches, epoch_order
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.manager import Hooks

#: What is done to each image: transforms of albumentations, with their options.
_PIPELINE: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("HorizontalFlip", {"p": 0.5}),
    ("Affine", {"scale": (0.9, 1.1), "rotate": (-15, 15), "translate_percent": (-0.1, 0.1), "p": 0.8}),
    ("RandomBrightnessContrast", {"p": 0.5}),
    ("CoarseDropout", {"p": 0.5}),
)
_BATCH_SIZE, _CLASSES = 64, 10
_GOAL = 1.1
#: Batches that are not counted: workers start, and what runs ahead fills up.
_AHEAD = 8

_Batch = tuple[Tensor, Tensor]


class _Images(TorchDataset[_Batch]):
    """The data and the pipeline as a user of a DataLoader writes them."""

    def __init__(self, data: Dataset) -> None:
        # (H, W, C), as albumentations wants them.
        self._images = data.inputs.permute(0, 2, 3, 1).contiguous().numpy()
        self._targets = data.targets
        made = [getattr(albumentations, name)(**options) for name, options in _PIPELINE]
        self._transform = albumentations.Compose(made)

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> _Batch:
        image = self._transform(image=self._images[index])["image"]
        return torch.from_numpy(image.transpose(2, 0, 1)), self._targets[index]


class _Order:
    """The order of the samples, which is ringfence's."""

    def __init__(self, samples: int) -> None:
        self._samples, self._epoch = samples, -1

    def __len__(self) -> int:
        return self._samples

    def __iter__(self) -> Iterator[int]:
        self._epoch += 1
        return iter(epoch_order(self._samples, 0, self._epoch).tolist())


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)


def _loader(data: Dataset, workers: int) -> DataLoader[_Batch]:
    return DataLoader(
        _Images(data),
        batch_size=_BATCH_SIZE,
        sampler=_Order(len(data)),
        num_workers=workers,
        persistent_workers=True,
        worker_init_fn=_start_worker,
    )


def _from_loader(loader: DataLoader[_Batch], count: int) -> Iterator[_Batch]:
    """Yield batches as the model wants them; bytes become numbers where that is cheapest, in the trainer."""
    left = count
    while left:
        for images, targets in loader:
            yield images.to(torch.float32).div_(255), targets
            left -= 1
            if not left:
                break


def _sandboxed(workers: int, stack: ExitStack) -> Hooks:
    """Start the plugin as a job would."""
    sandbox = stack.enter_context(Sandbox(plugins=1))
    hooks = stack.enter_context(closing(Hooks(0)))
    ops = [{name: dict(options)} for name, options in _PIPELINE]
    module = "ringfence.builtin.augment"
    hooks.register(
        sandbox.start(
            PluginSpec(
                "augment",
                "ringfence",
                "0",
                module,
                "Augment",
                "augment",
                options={"ops": ops},
                workers=workers,
            )
        )
    )
    return hooks


def _from_sandbox(hooks: Hooks, data: Dataset, count: int) -> Iterator[_Batch]:
    """Yield what the engine would train on."""
    plan = Plan(len(data), _BATCH_SIZE)
    source = batches(data, plan, 0, first_step=0, steps_total=count, lr_factor=lambda _: 1.0, as_stored=True)
    for batch, _ in hooks.stream(source):
        yield batch.inputs, batch.targets


def _rate(make: Callable[[int], Iterator[_Batch]], count: int) -> float:
    """Return samples a second, over the last ``count`` batches."""
    stream = make(count + _AHEAD)
    for _ in range(_AHEAD):
        next(stream)
    started, samples = time.perf_counter(), 0
    for inputs, _ in stream:
        samples += len(inputs)
    return samples / (time.perf_counter() - started)


def _check(sides: Mapping[str, Callable[[int], Iterator[_Batch]]], data: Dataset) -> None:
    """See that both sides give as many samples of the same kind, and that all but a few are changed."""
    count = -(-len(data) // _BATCH_SIZE)
    expected = data.targets[epoch_order(len(data), 0, 0)]
    originals = data.inputs[epoch_order(len(data), 0, 0)].to(torch.float32).div_(255)
    for name, make in sides.items():
        found = list(make(count))
        inputs = torch.cat([inputs for inputs, _ in found])
        assert inputs.dtype == torch.float32, name
        assert inputs.shape == originals.shape, name
        assert torch.equal(torch.cat([targets for _, targets in found]), expected), name
        assert 0.0 <= float(inputs.min()) <= float(inputs.max()) <= 1.0, name
        same = (inputs == originals).flatten(1).all(1).float().mean()
        # All four transforms stay away from one sample in forty; some change nothing that can be seen.
        assert same < 0.1, f"{name}: {same:.0%} of the images came out as they went in"  # noqa: PLR2004


def _figures(side: int, channels: int, workers: int, *, quick: bool) -> dict[str, Figure]:
    generator = torch.Generator().manual_seed(0)
    samples = _BATCH_SIZE * (8 if side > 100 else 64)  # noqa: PLR2004 - large ones take long
    images = torch.randint(0, 256, (samples, channels, side, side), dtype=torch.uint8, generator=generator)
    data = Dataset(images, torch.randint(0, _CLASSES, (samples,), generator=generator), _CLASSES)
    with ExitStack() as stack:
        hooks = _sandboxed(workers, stack)
        loader = _loader(data, workers)
        sides: dict[str, Callable[[int], Iterator[_Batch]]] = {
            "DataLoader": functools.partial(_from_loader, loader),
            "ringfence": functools.partial(_from_sandbox, hooks, data),
        }
        _check(sides, data)
        count = {True: 8, False: 16}[quick] if side > 100 else {True: 32, False: 128}[quick]  # noqa: PLR2004
        # In both, workers go on with what nobody has asked for yet; a pause lets them come to rest.
        measured = {name: functools.partial(_after_a_pause, make, count) for name, make in sides.items()}
        found = in_turn(measured, 2 if quick else 5)
    return {name: Figure(figure.values, "samples/s") for name, figure in found.items()}


def _after_a_pause(make: Callable[[int], Iterator[_Batch]], count: int) -> float:
    time.sleep(0.1)
    return _rate(make, count)


def measure(quick: bool) -> list[Table]:  # noqa: FBT001 - as all rows
    """Measure small and large images, one worker and two."""
    pin_threads()
    cv2.setNumThreads(0)
    table = Table(
        f"An albumentations pipeline of {len(_PIPELINE)} transforms, batches of {_BATCH_SIZE}",
        ("images", "workers", "side", "rate", "by the DataLoader's"),
    )
    for side, channels in ((28, 1), (224, 3)):
        for workers in (1, 2):
            figures = _figures(side, channels, workers, quick=quick)
            name = f"{side}x{side}x{channels}"
            gain = ratio(figures, "ringfence", "DataLoader")
            table.lines.append((name, workers, "DataLoader", figures["DataLoader"], ""))
            table.lines.append((name, workers, "ringfence", figures["ringfence"], gain))
            text = f"{name}, {workers} worker{'s' * (workers > 1)}: at least {_GOAL} x the DataLoader"
            table.goals.append(Goal(text, gain.median, _GOAL, at_least=True, unit="x"))
    table.notes = [
        "Images are uint8 in memory; they count when they are float32 from 0 to 1 in the trainer's memory.",
        "The DataLoader: persistent workers, prefetch_factor by default, bytes made float32 in the trainer.",
    ]
    return [table]


ROW = Row(4, "Augmentation in sandboxed workers, beside a DataLoader with as many", measure)
