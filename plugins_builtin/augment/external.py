"""Any albumentations transform, by name.

albumentations is imported when a job names one of its transforms, and not before. It looks for a newer
version of itself at import unless an environment variable says no; OpenCV is held to one thread, so that
several workers do not compete and results do not depend on the machine.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ringfence import Batch, derive_seed

from .draw import Draw
from .options import nearest

PREFIX = "albumentations."
_IMAGE_DIMS = 3

#: Transforms that cannot work here, and why.
_REFUSED = {
    "Lambda": "it takes functions, which a job file cannot hold",
    "Normalize": "batches are normalised after augmentation, by the data's mean and std",
    "ToTensor3D": "what it returns is no image; batches are tensors already",
    "ToTensorV2": "what it returns is no image; batches are tensors already",
}


@functools.cache
def _library() -> Any:
    # Read at import: without it albumentations asks a server for its newest version.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations  # noqa: PLC0415 - takes seconds and 100 MiB; only jobs that need it pay
    import cv2  # noqa: PLC0415 - as above

    cv2.setNumThreads(0)
    return albumentations


def transform_names() -> tuple[str, ...]:
    """Return the names of albumentations' transforms, sorted; imports it."""
    library = _library()
    bases = {library.BasicTransform, library.DualTransform, library.ImageOnlyTransform}
    found = (
        name
        for name, value in vars(library).items()
        if inspect.isclass(value) and issubclass(value, library.BasicTransform) and value not in bases
    )
    return tuple(sorted(found))


@dataclass(frozen=True)
class Transform:
    """One transform of the job.

    Attributes:
        name: albumentations' name of it.
        position: Place in the job's list, which makes its random numbers its own.
        transform: The transform itself.
    """

    name: str
    position: int
    transform: Any

    @property
    def moves(self) -> bool:
        """Tell whether pixels change place."""
        return isinstance(self.transform, _library().DualTransform)

    def apply(self, image: NDArray[Any], seed: int) -> NDArray[Any]:
        """Return the changed image, (H, W, C).

        Raises:
            ValueError: The transform failed or did not return an image of as many channels.
        """
        try:
            changed = self._call(image, seed)
        except KeyError as error:
            raise ValueError(f"it needs the input {error}, which a batch of images does not have") from error
        if not isinstance(changed, np.ndarray):
            raise ValueError(f"it returned a {type(changed).__name__}, not an image")  # noqa: TRY004
        result: NDArray[Any] = changed[:, :, None] if changed.ndim == _IMAGE_DIMS - 1 else changed
        if result.ndim != _IMAGE_DIMS or result.shape[2] != image.shape[2]:
            raise ValueError(f"it made an image of shape {result.shape} from one of {image.shape}")
        return result

    def _call(self, image: NDArray[Any], seed: int) -> Any:
        try:
            return self._seeded(image, seed)
        except KeyError:
            raise
        except Exception as error:  # foreign code: whatever it raises, the message must say which transform
            if image.dtype == np.uint8:
                raise ValueError(f"{type(error).__name__}: {error}") from error
            try:
                return self._seeded(np.rint(image * 255).astype(np.uint8), seed)
            except Exception:  # noqa: BLE001 - it was not the type of the pixels; tell the first cause
                raise ValueError(f"{type(error).__name__}: {error}") from error

    def _seeded(self, image: NDArray[Any], seed: int) -> Any:
        self.transform.set_random_seed(seed)
        return self.transform(image=image)["image"]


def make_transform(name: str, options: Mapping[str, Any], position: int) -> Transform:
    """Construct the transform ``name``.

    Args:
        name: With or without ``albumentations.`` in front.
        options: Arguments of its constructor.
        position: Place in the job's list.

    Raises:
        ValueError: There is none of that name, an option is wrong, or it needs more than an image.
    """
    name = name.removeprefix(PREFIX)
    if name in _REFUSED:
        raise ValueError(f"this transform cannot be used: {_REFUSED[name]}")
    known = transform_names()
    if name not in known:
        raise ValueError(f"albumentations has no transform of this name{nearest(name, known)}")
    cls = getattr(_library(), name)
    _check_names(cls, options)
    try:
        transform = cls(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"albumentations refuses these options: {' '.join(str(error).split())}") from error
    extra = [*transform.targets_as_params] or (["volume"] if "image" not in transform.targets else [])
    if extra:
        raise ValueError(f"it needs {', '.join(extra)}, which a batch of images does not have")
    return Transform(name, position, transform)


def _check_names(cls: type, options: Mapping[str, Any]) -> None:
    parameters = {
        name: parameter for name, parameter in inspect.signature(cls).parameters.items() if name != "self"
    }
    for option in options:
        if option not in parameters:
            raise ValueError(
                f"no option '{option}'{nearest(option, parameters)}; it takes {', '.join(parameters)}"
            )
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in options
    ]
    if missing:
        raise ValueError(f"it needs the option {', '.join(missing)}")


class Chain:
    """Transforms that follow each other in the job, run sample by sample.

    Each call is seeded by step, sample and place in the list, so that a sample's result
    depends neither on the worker nor on the rest of the batch. Images are float32 (H, W, C) in
    [0, 1]; a transform that fails on those is given uint8. Whether a transform is applied is its own ``p``.

    Between the transforms the size may change; at the end it must be the batch's again.

    Args:
        transforms: In the order of the job.
    """

    needs_images = True

    def __init__(self, transforms: tuple[Transform, ...]) -> None:
        self.transforms = transforms
        self.moves = any(transform.moves for transform in transforms)

    def change(self, batch: Batch, draw: Draw) -> Batch:
        """Return the batch after all transforms."""
        # A copy of its own: transforms may write into what they get, and the batch is read-only.
        images = batch.inputs.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).numpy()
        seeds = draw.step.sample_seeds(batch.indices)
        changed = [self._run(image, seed) for image, seed in zip(images, seeds, strict=True)]
        inputs = torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2)
        return batch.with_(inputs=inputs.contiguous())

    def _run(self, image: NDArray[Any], seed: int) -> NDArray[np.float32]:
        result, resized_by = image, ""
        for transform in self.transforms:
            before = result.shape
            try:
                result = transform.apply(result, derive_seed(seed, transform.position))
            except ValueError as error:
                raise ValueError(f"ops[{transform.position}] {transform.name}: {error}") from error
            if result.shape != before:
                resized_by = f"ops[{transform.position}] {transform.name}"
        if result.shape != image.shape:
            raise ValueError(
                f"{resized_by}: it changed the size from {image.shape[0]}x{image.shape[1]} to "
                f"{result.shape[0]}x{result.shape[1]}; add Resize, or another transform of albumentations "
                "that restores the size, right after it"
            )
        if result.dtype == np.uint8:
            return result.astype(np.float32) / np.float32(255)
        return np.clip(result.astype(np.float32, copy=False), 0, 1)
