"""``model.json``: how the network of a run is built again, and what its inputs and outputs mean.

The schema is documented in ``docs/run-folder.md``. Whoever reads one may have been given it by anybody: it is
checked as a whole, and what it names is no permission to import it (``own_runs``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from packaging.version import InvalidVersion, Version

from ..hooks.errors import CheckpointError, shorten, visible
from ..hooks.series import series_of
from ..hooks.trees import Tree
from ..tensors.tree_form import MAX_DEPTH, MAX_TENSORS, grow, is_grown
from ..version import __version__
from .untrusted_folder import Tree as FolderTree

NAME = "model.json"
SCHEMA = 1
#: Options of a model, and the names of its classes: of ten thousand some 200 KiB.
MAX_BYTES = 1 << 20
MAX_DIMS = 8
MAX_CLASSES = 100_000
#: Numbers of one sample, and of what is said of it.
_MAX_NUMBERS = 2**28
#: Classes need no names, but each has a number, of which tables are made.
_MAX_UNNAMED = 2**20
LARGEST_BYTE = 255.0
IMAGE_DIMS = 3
_SHOWN = 200
_MOST_COLUMNS = 10_000

#: Some models are made by trying sizes one after the other.
_Side = Annotated[int, msgspec.Meta(ge=0, le=2**24)]
_Shape = Annotated[tuple[_Side, ...], msgspec.Meta(max_length=MAX_DIMS)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
_Values = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
_Place = Annotated[int, msgspec.Meta(ge=0, lt=MAX_TENSORS)]
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_File = Annotated[str, msgspec.Meta(pattern=r"^model[a-z.-]{0,20}\.safetensors\Z")]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class ModelChoice(_Part, frozen=True):
    """What builds the network.

    Attributes:
        name: A builtin model, or ``module:function``.
        options: Its keyword arguments.
        seed: The job's: what a model draws as it is built, and does not save, follows from it.
    """

    name: _Name
    options: dict[str, Any]
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0


class InputForm(_Part, frozen=True, omit_defaults=True):
    """One tensor of the inputs, as the data have it.

    Attributes:
        shape: Of one sample; images are (C, H, W).
        dtype: Images in bytes are divided by ``scale`` before the network sees them.
        layout: ``CHW`` for images, None for anything else.
        path: Where it lies in the tree of the inputs: keys of dicts and places in lists, from the root.
            Empty where the inputs are this one tensor.
        varies: Whether sizes may differ from sample to sample; ``shape`` is that of the first then.
        values: How many values whole numbers can take, one number or one a column; empty where they are none.
    """

    shape: _Shape
    dtype: Literal["uint8", "float32", "int64", "int32", "int16", "int8", "bool", "float16", "bfloat16"]
    layout: Literal["CHW"] | None
    path: Annotated[tuple[_Name | _Place, ...], msgspec.Meta(max_length=MAX_DEPTH)] = ()
    values: Annotated[tuple[_Values, ...], msgspec.Meta(max_length=_MOST_COLUMNS)] = ()
    varies: bool = False


class OutputForm(_Part, frozen=True, omit_defaults=True):
    """One output.

    Attributes:
        shape: (K,) with K classes, (K, …) with one at each position; otherwise that of one target, if that
            is one tensor.
        classes_last: Whether outputs are (B, …, K) where each position has a class, and not (B, K, …).
    """

    shape: _Shape
    classes_last: bool = False


class Normalisation(_Part, frozen=True):
    """What is taken off a network's inputs, and what they are divided by then, per channel.

    Attributes:
        mean: In units of inputs that were divided by ``scale``.
        std: Likewise; > 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


class ModelRecord(_Part, frozen=True, kw_only=True):
    """The contents of ``model.json``.

    Attributes:
        schema: Of the table in ``docs/run-folder.md``.
        model: What builds the network.
        input: The only input, or the first of several.
        other_inputs: The others.
        output: One output.
        task: What the outputs are: one logit a class (``classification``), such at each position
            (``positions``), numbers (``regression``), or whatever the run's own loss takes (``other``).
        scale: What images in bytes are divided by; None if the data are no such.
        normalisation: None if there is none.
        class_names: One a class, or none.
        edits: What was done to the network since it was built; there is no kind of edit yet.
        data_digest: Part of the data to number of samples and digest.
        versions: Of ``ringfence``, ``torch`` and ``python``.
        weights: File to its SHA-256, in hexadecimal.
    """

    schema: Literal[1] = 1
    model: ModelChoice
    input: InputForm
    output: OutputForm
    other_inputs: Annotated[tuple[InputForm, ...], msgspec.Meta(max_length=MAX_TENSORS)] = ()
    task: Literal["classification", "regression", "positions", "other"]
    scale: float | None
    normalisation: Normalisation | None
    class_names: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_CLASSES)] = ()
    edits: tuple[Any, ...] = ()
    data_digest: dict[str, str] = msgspec.field(default_factory=dict)
    versions: dict[str, str]
    weights: Annotated[dict[_File, _Sha256], msgspec.Meta(max_length=100)] = msgspec.field(
        default_factory=dict
    )

    @property
    def inputs(self) -> tuple[InputForm, ...]:
        """All inputs, in the order of their tree."""
        return (self.input, *self.other_inputs)

    def input_tree(self, make: Callable[[InputForm], Any]) -> Tree:
        """Return a tree of the form of the inputs, with what ``make`` makes of each."""
        return grow((form.path, make(form)) for form in self.inputs)

    def encode(self, weights: Mapping[str, str] | None = None) -> bytes:
        """Return the bytes of ``model.json``, with other ``weights`` if they are given."""
        told = self if weights is None else msgspec.structs.replace(self, weights=dict(weights))
        return msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n"


class _Origin(msgspec.Struct, frozen=True):
    """The fields that every schema has, so that a later one can be told as such."""

    schema: int
    versions: dict[str, str]


def write_model_record(folder: Path, record: ModelRecord) -> None:
    """Replace ``model.json`` of a run.

    Raises:
        OSError: It cannot be written.
    """
    FolderTree(folder).write(NAME, [record.encode()], sync=True)


def read_model_record(folder: Path) -> ModelRecord:
    """Read ``model.json`` of a run, which may be anybody's.

    Raises:
        CheckpointError: There is none, it is damaged, or it is of a later schema or series.
    """
    try:
        data = FolderTree(folder).read(NAME, MAX_BYTES)
    except FileNotFoundError:
        if not folder.exists():
            raise CheckpointError(f"{folder}: there is no such folder; name the folder of a run") from None
        raise CheckpointError(
            f"{folder}: holds no {NAME}, so that its network cannot be built again. Name the folder of a "
            "run; one of ringfence 0.3 or earlier is given one by going on with it: ringfence train --resume"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{folder}: {NAME} cannot be read: {visible(error.strerror or str(error))}"
        ) from error
    return decode_model_record(data, f"{folder}/{NAME}")


def read_weights_told(folder: Path) -> dict[str, str]:
    """Return the digests in ``model.json`` of a run; none where it cannot be read."""
    try:
        return read_model_record(folder).weights
    except CheckpointError:
        return {}


def decode_model_record(data: bytes, where: str) -> ModelRecord:
    """Check the bytes of a ``model.json``.

    Args:
        data: At most ``MAX_BYTES``.
        where: For messages.

    Raises:
        CheckpointError: As ``read_model_record``.
    """
    try:
        _check_origin(msgspec.json.decode(data, type=_Origin), where)
        record = msgspec.json.decode(data, type=ModelRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{where} is damaged: {_told(error)}") from error
    for fault, is_there in _faults(record).items():
        if is_there:
            raise CheckpointError(f"{where} is damaged: {fault}")
    if record.edits:
        raise CheckpointError(
            f"{where} tells of an edit of the network, {_edit_name(record.edits[0])}, and this version of "
            "ringfence knows none: it would build another network than was trained"
        )
    return record


def _check_origin(origin: _Origin, where: str) -> None:
    written = origin.versions.get("ringfence", "")
    try:
        there = Version(written)
    except InvalidVersion:
        raise CheckpointError(f"{where} is damaged: it tells no version of ringfence") from None
    here = Version(__version__)
    if origin.schema != SCHEMA or (there.major, there.minor) > (here.major, here.minor):
        raise CheckpointError(
            f"{where} was written by ringfence {there}, as schema {origin.schema}; this is {here}, which "
            f"reads schema {SCHEMA} up to series {series_of(here)}. Install what wrote it: "
            f"pip install 'ringfence=={there}'"
        )


def _faults(record: ModelRecord) -> dict[str, bool]:
    """Return what types cannot say, and whether it is so."""
    inputs, outputs, normalisation = record.input, record.output.shape, record.normalisation
    numbers = () if normalisation is None else (*normalisation.mean, *normalisation.std)
    channels = inputs.shape[0] if inputs.shape else 0
    return {
        "bytes have another scale than 255": (
            record.scale != (LARGEST_BYTE if inputs.dtype == "uint8" and not inputs.path else None)
        ),
        "a sample is too large": max(sum(math.prod(each.shape) for each in record.inputs), math.prod(outputs))
        > _MAX_NUMBERS,
        "its inputs lie in no tree": not is_grown([each.path for each in record.inputs]),
        "positions need an output of two dimensions": record.task == "positions" and len(outputs) < 2,  # noqa: PLR2004 - (K, …)
        "there are too many classes": record.task == "classification" and math.prod(outputs) > _MAX_UNNAMED,
        "layout CHW needs three dimensions": inputs.layout == "CHW" and len(inputs.shape) != IMAGE_DIMS,
        "classes need an output of one dimension": record.task == "classification" and len(outputs) != 1,
        "there are other class names than classes": bool(record.class_names)
        and (len(record.class_names),) != outputs[:1],
        "mean or std is not finite": not all(map(math.isfinite, numbers)),
        "mean and std are not one number a channel": normalisation is not None
        and not len(normalisation.mean) == len(normalisation.std) == channels,
        "a std is not above 0": normalisation is not None
        and not all(value > 0 for value in normalisation.std),
    }


def _edit_name(edit: object) -> str:
    name = edit.get("kind", edit) if isinstance(edit, dict) else edit
    return f"'{visible(shorten(str(name), _SHOWN))}'"


def _told(error: Exception) -> str:
    return visible(shorten(str(error), _SHOWN)) or "nested too deep"
