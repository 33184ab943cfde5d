"""Samples with what a model should have said of them, for a run's model to be measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..datasets.arrays import Task
from ..datasets.classes import to_classes
from ..datasets.convert import to_float32
from ..datasets.dataset_registry import load_data
from ..datasets.row_file import holds_rows, read_rows
from ..datasets.run_encoder import row_encoder
from ..engine.data import Dataset
from ..hooks.errors import DataError, visible
from ..hooks.trees import Tree, map_tensors
from ..plugins.machine_memory import machine_bytes
from ..tensors.tree_form import describe_tree, grow, paths_of
from ..tracking.model_record import ModelRecord
from .inputs.array_file import KEYED, open_keyed, read_array
from .inputs.in_memory import ArraySource, TreeSource, as_tensor
from .inputs.photos import PhotoSource, find_photos
from .inputs.sample_form import SampleForm, form_of
from .inputs.source import Source

_AT_ONCE = 256
_CHUNK_BYTES = 64 << 20
_LISTED = 5


def labelled_path(
    path: Path,
    record: ModelRecord,
    form: SampleForm,
    *,
    skip_unreadable: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Dataset:
    """Read a folder with one folder of images a class, or ``inputs`` and ``targets`` of a file of arrays.

    Args:
        path: May be anybody's.
        record: Of the model; its class names say which class has which number.
        form: What the model takes.
        skip_unreadable: Leave out photos that cannot be read.
        tell: Told, as sentences, of photos that are left out or resized.

    Raises:
        DataError: It cannot be read, or does not fit the model.
    """
    make = row_encoder(form.preprocessing) if holds_rows(path) else None
    if path.is_dir() and make is None:
        return _labelled_folder(path, record, form, skip_unreadable=skip_unreadable, tell=tell)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if make is not None:
        encoder, rows = make(), read_rows(path)
        dataset = encoder.samples(rows, torch.arange(len(rows)))
        for note in encoder.gaps:
            tell(note)
        return dataset
    if path.suffix.lower() not in KEYED:
        raise DataError(
            f"{path}: is neither a folder of classes nor {' nor '.join(KEYED)} with 'inputs' and 'targets'; "
            "name a reader, as in folder:path=DIR"
        )
    names = list(KEYED[path.suffix.lower()](path))
    missing = [name for name in ("inputs", "targets") if name not in names]
    if missing:
        held = _list([visible(name) for name in names]) or "none"
        raise DataError(
            f"{path}: holds no array {' and no '.join(map(repr, missing))}, but {held}; name them as in "
            f"arrays:path={path},inputs=NAME,targets=NAME"
        )
    inputs = open_keyed(path, form, "inputs")
    return labelled(inputs, read_array(path, "targets", inputs.count), record, str(path))


def labelled_pair(inputs: Any, targets: Any, record: ModelRecord, form: SampleForm) -> Dataset:
    """Return arrays as samples of a model; raises as ``labelled_path``."""
    source: Source
    if form.tree:
        source = TreeSource(inputs, form, "the inputs")
    else:
        source = ArraySource(as_tensor(inputs, "the inputs"), form, "the inputs")
    return labelled(source, as_tensor(targets, "the targets", is_targets=True), record, "the data")


def read_parts(
    name: str, options: Mapping[str, Any], record: ModelRecord, form: SampleForm, *, base: Path, task: Task
) -> dict[str, Dataset]:
    """Read data as a job does, with nothing held out.

    Args:
        name: A reader, or ``module:function``.
        options: Its options.
        record: Of the model.
        form: What it takes.
        base: Folder that relative paths start from.
        task: What the loss is for.

    Returns:
        The parts that there are, by name.

    Raises:
        DataError: They cannot be read, or do not fit the model.
    """
    parts = load_data(name, options, base=base, task=task, known=form.preprocessing).parts()
    train = parts["train"]
    if not _fits(train.inputs, record):
        hint = _photo_options(name, train.inputs, form)
        raise DataError(f"data '{name}': each sample is {_form(train.inputs)}; the model needs {form}{hint}")
    classes = record.output.shape[0] if record.task in {"classification", "positions"} else None
    if (train.num_classes is None) != (classes is None) or (train.num_classes or 0) > (classes or 0):
        raise DataError(f"data '{name}': have {_classes(train.num_classes)}, the model {_classes(classes)}")
    if train.class_names and record.class_names and train.class_names != record.class_names:
        raise DataError(
            f"data '{name}': have the classes {_list(train.class_names)}, and the model "
            f"{_list(record.class_names)}: their numbers mean other classes"
        )
    return parts


def _fits(inputs: Tree, record: ModelRecord) -> bool:
    """Tell whether each tensor of samples is of the shape and kind of the model's."""
    return [(path, tuple(tensor.shape[1:]), str(tensor.dtype)) for path, tensor in paths_of(inputs)] == [
        (form.path, form.shape, f"torch.{form.dtype}") for form in record.inputs
    ]


def _form(inputs: Tree) -> str:
    if not isinstance(inputs, Tensor):
        return describe_tree(map_tensors(lambda tensor: tensor[0], inputs))
    dtype = str(inputs.dtype).removeprefix("torch.")
    return f"{SampleForm(tuple(inputs.shape[1:]), dtype == 'uint8', whole=dtype)}"


def labelled(source: Source, targets: Tensor, record: ModelRecord, what: str) -> Dataset:
    """Return samples in memory with their targets.

    Args:
        source: The samples.
        targets: (N,) class numbers, (N, …) such at each position, or (N, …) numbers to be predicted.
        record: Of the model.
        what: For messages.

    Raises:
        DataError: There are not as many targets as samples, or they are no classes or numbers of the model's.
    """
    inputs, read = _in_memory(source, form_of(record), what)
    if len(read) < len(targets) == source.count:
        targets = targets[torch.tensor(read)]
    if len(read) != len(targets):
        raise DataError(f"{what}: there are {len(read)} inputs, but {len(targets)} targets")
    if record.task == "classification":
        return Dataset(inputs, to_classes(targets, what), record.output.shape[0], record.class_names)
    if record.task == "positions":
        return Dataset(inputs, targets.long(), record.output.shape[0], record.class_names)
    numbers = to_float32(targets, what)
    numbers = numbers[:, None] if numbers.dim() == 1 else numbers
    if tuple(numbers.shape[1:]) != record.output.shape:
        raise DataError(
            f"{what}: each target is of shape {tuple(numbers.shape[1:])}; the model predicts "
            f"{record.output.shape}"
        )
    return Dataset(inputs, numbers, None)


def _in_memory(source: Source, form: SampleForm, what: str) -> tuple[Tree, list[int]]:
    """Return all samples that can be read, (N, …), if this machine can hold them, and the places of them."""
    nbytes = form.stored_nbytes
    if source.count is not None and source.count * nbytes > machine_bytes() // 4:
        raise DataError(
            f"{what}: {source.count:,} samples of {form} take {source.count * nbytes / 2**30:.1f} GiB, which "
            "is more than a quarter of this machine's memory; measure on fewer"
        )
    # Fewer at once where they are large: both what is read and what it is put together to are in memory.
    chunks = list(source.chunks(max(1, min(_AT_ONCE, _CHUNK_BYTES // nbytes))))
    parts = [dict(paths_of(chunk.inputs)) for chunk in chunks]
    inputs = grow((path, torch.cat([part[path] for part in parts])) for path in parts[0])
    return inputs, [i for chunk in chunks for i in chunk.indices]


def _labelled_folder(
    path: Path, record: ModelRecord, form: SampleForm, *, skip_unreadable: bool, tell: Callable[[str], None]
) -> Dataset:
    if not record.class_names:
        raise DataError(f"{path}: is a folder of classes, and the model's classes have no names")
    files, notes = find_photos(path)
    number = {name: i for i, name in enumerate(record.class_names)}
    names = [file.relative_to(path).parts[0] for file in files]
    unknown = sorted(set(names) - number.keys())
    if unknown:
        raise DataError(
            f"{path}: {_list([visible(name) for name in unknown])} is none of the model's classes, which are "
            f"{_list(record.class_names)}; name a folder that holds one folder of images for each class"
        )
    targets = torch.tensor([number[name] for name in names])
    source = PhotoSource(files, form, root=path, skip_unreadable=skip_unreadable)
    as_always = len(source.notes)
    dataset = labelled(source, targets, record, str(path))
    for note in (*notes, *source.notes[as_always:]):
        tell(note)
    return dataset


def _photo_options(name: str, found: Tree, form: SampleForm) -> str:
    """Return which options of the reader of photos give samples of the model's form."""
    if name != "folder" or not form.is_image or not form.in_bytes or not isinstance(found, Tensor):
        return ""
    (channels, height, width), options = form.shape, []
    if found.shape[2:] != form.shape[1:]:
        options.append(f"size={height}" if height == width else f"size=[{height},{width}]")
    if found.shape[1] != channels:
        options.append(f"greyscale={str(channels == 1).lower()}")
    return f"; read them with {','.join(options)}, as in folder:path=DIR,{','.join(options)}"


def _classes(count: int | None) -> str:
    return "numbers as targets" if count is None else f"{count} classes"


def _list(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
