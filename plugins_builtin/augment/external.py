"""Any albumentations transform, by name.

albumentations is imported when a job names one of its transforms, and not before. It looks for a newer
version of itself at import unless an environment variable says no; OpenCV is held to one thread, so that
several workers do not compete and results do not depend on the machine.
"""

from __future__ import annotations

import functools
import inspect
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringfence import Batch, derive_seed

from .draw import Draw
from .external_targets import Following, following_of, to_codes, within
from .options import nearest

PREFIX = "albumentations."
_IMAGE_DIMS = 3
#: OpenCV's ways to read a pixel of a mask that make no class of two.
_NEAREST = {0, 6}
#: Any odd number of 128 bits.
_SPREAD = 0x9E3779B97F4A7C15F39CC0605CEDC835

#: Annotations of what is true or false; albumentations itself would take some words for these.
_SWITCHES = {"bool", "bool | None", str(bool)}

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
    try:
        import albumentations  # noqa: PLC0415 - takes seconds and 100 MiB; only jobs that need it pay
        import cv2  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the transforms of albumentations need {error.name}, which is not installed; "
            "install it with: pip install 'ringfence[albumentations]'"
        ) from error

    cv2.setNumThreads(0)
    return albumentations


def transform_names() -> tuple[str, ...]:
    """Return the names of albumentations' transforms, sorted; imports it.

    Raises:
        ValueError: It is not installed.
    """
    library = _library()
    bases = {library.BasicTransform, library.DualTransform, library.ImageOnlyTransform}
    found = (
        name
        for name, value in vars(library).items()
        if inspect.isclass(value) and issubclass(value, library.BasicTransform) and value not in bases
    )
    return tuple(sorted(found))


class _Randomness:
    """The two generators that the transforms of a chain draw from.

    They are set to a seed, not made anew: for a small image that would take as long as a transform.
    """

    def __init__(self) -> None:
        self._bits = np.random.PCG64(0)
        self.numpy = np.random.Generator(self._bits)
        self.python = random.Random(0)  # noqa: S311 - what becomes of an image is no secret

    def seed(self, seed: int) -> None:
        """Start over from ``seed``, which is random itself: a hash, not a count."""
        self._bits.state = {
            "bit_generator": "PCG64",
            "state": {"state": seed * _SPREAD % 2**128, "inc": _SPREAD},
            "has_uint32": 0,
            "uinteger": 0,
        }
        self.python.seed(seed)


@dataclass(frozen=True)
class Transform:
    """One transform of the job.

    Attributes:
        name: albumentations' name of it.
        position: Place in the job's list.
        transform: The transform itself.
    """

    name: str
    position: int
    transform: Any

    @property
    def moves(self) -> bool:
        """Tell whether pixels change place."""
        return isinstance(self.transform, _library().DualTransform)

    def check_follows(self, what: str) -> None:
        """Check that ``masks`` or ``boxes`` can follow.

        Raises:
            ValueError: They cannot.
        """
        target = {"masks": "MASK", "boxes": "BBOXES"}[what]
        known = getattr(self.transform, "_targets", ())
        if target not in {each.name for each in (known if isinstance(known, tuple) else (known,))}:
            raise ValueError(f"it does not move the {what} that are the targets; leave it out")
        if what == "masks" and getattr(self.transform, "mask_interpolation", 0) not in _NEAREST:
            raise ValueError(
                f"mask_interpolation {self.transform.mask_interpolation} makes classes of a mask that are "
                "between others; leave it out"
            )

    def apply(self, image: NDArray[Any], **more: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the changed image, (H, W, C), as ``image``, and what follows it under its own name.

        Args:
            image: (H, W, C).
            more: ``mask`` (H, W) whole numbers, ``bboxes`` (n, 5) in shares of the sides, with any fifth
                number; a transform that moves no pixels is not given them.

        Raises:
            ValueError: The transform failed or did not return an image of as many channels.
        """
        try:
            changed = self._call({"image": image, **(more if more and self.moves else {})})
        except KeyError as error:
            raise ValueError(f"it needs the input {error}, which a batch of images does not have") from error
        found = changed["image"]
        if not isinstance(found, np.ndarray):
            raise ValueError(f"it returned a {type(found).__name__}, not an image")  # noqa: TRY004
        result: NDArray[Any] = found[:, :, None] if found.ndim == _IMAGE_DIMS - 1 else found
        if result.ndim != _IMAGE_DIMS or result.shape[2] != image.shape[2]:
            raise ValueError(f"it made an image of shape {result.shape} from one of {image.shape}")
        return {**more, **changed, "image": result}

    def _call(self, given: dict[str, NDArray[Any]]) -> Any:
        try:
            return self.transform(**given)
        except KeyError:
            raise
        except Exception as error:  # foreign code: whatever it raises, the message must say which transform
            if given["image"].dtype == np.uint8:
                raise ValueError(f"{type(error).__name__}: {error}") from error
            levels = np.rint(given["image"] * 255).astype(np.uint8)
            try:
                # It was drawn that it is applied; drawing again would apply it less often than it should be.
                return self.transform(**{**given, "image": levels}, force_apply=True)
            except Exception:  # noqa: BLE001 - it was not the type of the pixels; tell the first cause
                raise ValueError(f"{type(error).__name__}: {error}") from error


def make_transform(name: str, options: Mapping[str, Any], position: int) -> Transform:
    """Construct the transform ``name``.

    Args:
        name: With or without ``albumentations.`` in front.
        options: Arguments of its constructor.
        position: Place in the job's list.

    Raises:
        ValueError: There is none of that name, an option is wrong, it needs more than an image, or
            albumentations is not installed.
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
    if "fill_mask" in options and isinstance(transform.fill_mask, (int, float)):
        transform.fill_mask = to_codes(transform.fill_mask)
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
        if isinstance(options[option], str) and str(parameters[option].annotation) in _SWITCHES:
            raise ValueError(f"{option} is the text '{options[option]:.40}'; write true or false")
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in options
    ]
    if missing:
        raise ValueError(f"it needs the option {', '.join(missing)}")


class Chain:
    """Transforms that follow each other in the job, run sample by sample.

    Each sample is seeded by step, sample and the chain's place in the list, so that its result depends
    neither on the worker nor on the rest of the batch; its transforms draw from that in turn. Images are
    (H, W, C): uint8 if all their numbers are levels of 8 bits, otherwise float32 in [0, 1]; a transform that
    fails on those is given uint8. Whether a transform is applied is its own ``p``.

    Between the transforms the size may change; at the end it must be the batch's again.

    Args:
        transforms: In the order of the job.
    """

    needs_images = True
    needs_levels = True
    follows = True
    mixes = False

    def __init__(self, transforms: tuple[Transform, ...]) -> None:
        # OpenCV takes its time to load; only jobs that need it pay.
        from .images import Converter, Spares  # noqa: PLC0415

        self.transforms = transforms
        self.label = f"ops[{transforms[0].position}] {transforms[0].name}: "
        self.moves = any(transform.moves for transform in transforms)
        self._randomness = _Randomness()
        self._converter = Converter()
        self._results = Spares()
        for each in transforms:
            each.transform.set_random_state(self._randomness.numpy, self._randomness.python)

    def change(self, batch: Batch, draw: Draw) -> Batch:
        """Return the batch after all transforms."""
        following = self._following(batch)
        inputs = batch.inputs.contiguous()
        result = self._results.take(inputs.shape)
        position = self.transforms[0].position
        seeds = [derive_seed(seed, position) for seed in draw.step.sample_seeds(batch.indices)]
        for part in self._converter.parts(inputs):
            images = []
            for place, image in enumerate(self._converter.to_images(inputs[part]), part.start):
                run = self._run(image, seeds[place], following.given(place))
                images.append(run.pop("image"))
                following.take(place, run)
            self._converter.from_images(images, result[part])
        return batch.with_(inputs=result, targets=following.targets())

    def _following(self, batch: Batch) -> Following:
        """Return what of the targets moves with the images."""
        following = following_of(batch) if self.moves else Following(batch)
        self.check_kind(following.what)
        return following

    def check_kind(self, kind: str | None) -> None:
        """Check that ``masks`` or ``boxes`` can follow, if there are any.

        Raises:
            ValueError: They cannot follow one of the transforms.
        """
        for transform in self.transforms if kind else ():
            try:
                if kind and transform.moves:
                    transform.check_follows(kind)
            except ValueError as error:
                raise ValueError(f"ops[{transform.position}] {transform.name}: {error}") from error

    def _run(self, image: NDArray[Any], seed: int, more: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the changed image, as ``image``, and what follows it."""
        self._randomness.seed(seed)
        result, resized_by = {"image": image, **more}, ""
        for transform in self.transforms:
            before = result["image"].shape
            try:
                result = within(transform.apply(**result))
            except ValueError as error:
                raise ValueError(f"ops[{transform.position}] {transform.name}: {error}") from error
            if result["image"].shape != before:
                resized_by = f"ops[{transform.position}] {transform.name}"
        after = result["image"].shape
        if after != image.shape:
            raise ValueError(
                f"{resized_by}: it changed the size from {image.shape[0]}x{image.shape[1]} to "
                f"{after[0]}x{after[1]}; add Resize, or another transform of albumentations "
                "that restores the size, right after it"
            )
        return result
