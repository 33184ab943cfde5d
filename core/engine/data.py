"""The data of a run: what is trained on, what is tested on, and how inputs are scaled."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples and what to predict for them.

    Attributes:
        inputs: (N, …) uint8 or float32; images are (N, C, H, W). uint8 becomes float32 / 255 batch by batch.
        targets: (N,) int64 class numbers, or float32 (N, …) for regression.
        num_classes: Number of classes, or None for regression.
        class_names: One name a class, or empty.
    """

    inputs: Tensor
    targets: Tensor
    num_classes: int | None
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.inputs.shape[0]


@dataclass(frozen=True, slots=True)
class Data:
    """Training and test samples.

    Attributes:
        train: Trained on.
        test: Never trained on.
        mean: Per channel, in units of the batch's inputs ([0, 1] for uint8 images); None for no normalisation.
        std: Per channel, > 0; None exactly when ``mean`` is.

    Normalisation is applied to batches after augmentation, on the model's device.
    """

    train: Dataset
    test: Dataset
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
