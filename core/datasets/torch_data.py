"""Data sets of torch's that a function of the user's gives: read as they are asked for, by workers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field
from torch import Tensor

from ..engine.read_data import ReadDataset
from ..engine.sample_reader import SampleReader
from ..engine.sequential_samples import SequentialSamples
from ..hooks.errors import DataError
from ..job.function_options import check_options
from ..job.user_code import load_function
from .arrays import Classes
from .preparation import Parts, Workers, telling
from .split import split_dataset

_TEST_FRACTION = 0.2
_SPLIT_SEED = 0
_PARTS = {2: ("train", "test"), 3: ("train", "validation", "test")}
#: What has places and a length, and is read whole.
_WHOLE = (Tensor, np.ndarray, Mapping, tuple, list, str, bytes)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Options of a job's data that say how a data set of torch's is read.

    Attributes:
        workers: Processes that read; 0: the trainer.
        collate: ``module:function`` that makes a batch of a list of samples; None: torch's own.
        target: Of samples that are dicts, the keys of the targets.
        classes: How many classes there are; None: the data set says it, or targets are no classes.
    """

    workers: int = 0
    collate: str | None = None
    target: tuple[str, ...] = ()
    classes: int | None = None

    @classmethod
    def taken_from(
        cls, options: Mapping[str, Any], function: Callable[..., Any]
    ) -> tuple[Self, dict[str, Any]]:
        """Return these, and the options that are left for the function: all that it has a parameter for.

        Raises:
            OptionError: One is of another type or out of range.
        """
        names = {field.name for field in fields(cls)} - set(inspect.signature(function).parameters)
        given = check_options(_typed, {name: value for name, value in options.items() if name in names})
        if isinstance(given.get("target"), str):
            given["target"] = (given["target"],)
        rest = {name: value for name, value in options.items() if name not in names}
        return cls(**given), rest

    def refuse_if_given(self, source: str, form: str) -> None:
        """Refuse options that nothing would look at.

        Raises:
            DataError: One was given, and the function has given no data set of torch's.
        """
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        if given:
            raise DataError(
                f"{source}: {', '.join(given)} say how a torch.utils.data.Dataset is read; the function "
                f"returned {form}"
            )


def _typed(
    *,
    workers: Workers = 0,
    collate: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")] | None = None,
    target: str | Annotated[tuple[str, ...], Field(min_length=1)] = (),
    classes: Classes | None = None,
) -> None:
    """Say of what types these options are."""


#: Of them, for messages.
READ_OPTIONS = tuple(inspect.signature(_typed).parameters)


def is_read(result: object) -> bool:
    """Tell whether a function has given data sets of torch's: one, or two or three in a tuple."""
    if isinstance(result, tuple | list) and len(result) in _PARTS:
        return all(map(_is_data_set, result))
    return _is_data_set(result)


def read_parts(result: Any, options: ReadOptions, source: str, base: Path) -> Parts:
    """Return the parts that a function has given; of a single data set a fifth is the test part.

    Args:
        result: One data set, or two (training, test) or three (with validation between them) in a tuple.
        options: How they are read.
        source: For messages.
        base: Folder where modules are looked for too.

    Raises:
        DataError: A data set has no length, or its first samples cannot be read.
    """
    try:
        collate = None if options.collate is None else load_function(options.collate, base)
    except ValueError as error:
        raise DataError(f"{source}: collate: {error}") from error
    sets = list(result) if isinstance(result, tuple | list) else [result]
    names = _PARTS.get(len(sets), ("samples",))
    made = [
        _part(
            each,
            f"{source}: {name}" if len(sets) > 1 else source,
            options,
            collate,
            may_stream=name == "train",
        )
        for name, each in zip(names, sets, strict=True)
    ]
    if len(made) == 1:
        train, test = split_dataset(made[0], _TEST_FRACTION, _SPLIT_SEED, source)
        told = f"{len(test):,} of {len(made[0]):,} samples are drawn as the test part"
        return Parts(train=train, test=test, source=source, notes=(told,))
    parts = dict(zip(names, made, strict=True))
    return Parts(train=parts["train"], test=parts["test"], validation=parts.get("validation"), source=source)


def _part(
    samples: Any,
    source: str,
    options: ReadOptions,
    collate: Callable[[list[Any]], Any] | None,
    *,
    may_stream: bool,
) -> ReadDataset:
    if _has_no_length(samples):
        if not may_stream:
            raise DataError(
                f"{source}: the {type(samples).__name__} has no length, so that it can neither be split nor "
                "judge a run; give (training, test), of which the test part has __len__ and __getitem__"
            )
        if options.workers > 1:
            raise DataError(
                f"{source}: the {type(samples).__name__} has no length, and several workers would each read "
                "all of it, or shares of it in an order that depends on their number; write workers: 1, or 0"
            )
        with telling(source):
            samples = SequentialSamples(samples)
    reader = SampleReader(samples, source, collate, options.workers, options.target)
    names = _class_names(samples)
    classes = options.classes or len(names) or None
    if names and options.classes not in {None, len(names)}:
        raise DataError(f"{source}: names {len(names)} classes; the option 'classes' is {options.classes}")
    return ReadDataset.of(reader, classes, names)


def _class_names(samples: Any) -> tuple[str, ...]:
    """Return the names that a data set gives its classes, as those of torchvision do."""
    samples = samples.iterable if isinstance(samples, SequentialSamples) else samples
    names = getattr(samples, "classes", None)
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return ()


def _has_no_length(samples: Any) -> bool:
    from torch.utils.data import IterableDataset  # noqa: PLC0415 - for those who read such

    # What a length of an iterable says, torch itself takes for a guess.
    is_by_place = hasattr(samples, "__getitem__") and hasattr(samples, "__len__")
    return isinstance(samples, IterableDataset) or not is_by_place


def _is_data_set(value: object) -> bool:
    from torch.utils.data import Dataset as TorchDataset  # noqa: PLC0415 - likewise

    if isinstance(value, TorchDataset):
        return True
    return not isinstance(value, _WHOLE) and hasattr(value, "__getitem__") and hasattr(value, "__len__")
