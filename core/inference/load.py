"""``ringfence.load``: the network that a run has trained, ready to be used."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.checkpoints.checkpoint import NetworkState
from ..engine.config import resolve_device
from ..engine.extra_state import gives_extra_state
from ..engine.forward import forward
from ..hooks.errors import CheckpointError, DataError, JobError
from ..hooks.trees import Tree
from ..job.user_code import is_import_path
from ..plugins.machine_memory import machine_bytes
from ..tensors.byte_batch import to_numbers
from ..tensors.tree_form import TreeError, conform, named_tensors, to_tree
from ..tracking.model_files import CheckpointName, Tell, WeightsName, check_state_named, read_state
from ..tracking.model_record import ModelRecord, read_model_record
from ..tracking.own_runs import Permission, permitted
from .network import build_network, fill, nbytes

#: The part of this machine's memory that is read from a folder before it is known how large a network is.
_AHEAD = 16
#: Kinds of numbers that stand for nothing that a run was trained on: whole ones of an image would be taken
#: for shares of one, without a word.
_NO_INPUTS = frozenset({torch.int8, torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64})


class LoadedModel(nn.Module):
    """A network and the normalisation of what it was trained on, as one module.

    Args:
        network: In evaluation mode, on ``device``.
        record: What ``model.json`` says of it.
        device: Where it is.

    Attributes:
        network: The network itself, which takes normalised inputs.
        record: What ``model.json`` says.
        class_names: One a class, or none.
    """

    mean: Tensor
    std: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, record: ModelRecord, device: torch.device) -> None:
        super().__init__()
        self.network = network
        self.record = record
        self.class_names = record.class_names
        self.register_buffer("scale", torch.tensor(record.scale or 1.0, device=device), persistent=False)
        self.is_normalised = record.normalisation is not None
        if record.normalisation is not None:
            per_channel = (1, -1) + (1,) * (len(record.input.shape) - 1)
            for name in ("mean", "std"):
                numbers = torch.tensor(getattr(record.normalisation, name), device=device).view(per_channel)
                self.register_buffer(name, numbers, persistent=False)
        self.eval()

    def forward(self, inputs: Tree) -> Any:
        """Return what the network returns for a batch.

        Args:
            inputs: (B, …) float32 as a batch of the run has them, images in bytes as numbers from 0 to 1;
                or, of such images, (B, C, H, W) uint8. Where the run's inputs were a tree, one of its form.

        Raises:
            DataError: They are no such, or of another dimension, kind of number or count of channels.
        """
        if self.record.input.path:
            return forward(self.network, self._checked_tree(inputs))
        self._check(inputs)
        if inputs.dtype == torch.uint8:
            inputs = self._numbers(inputs)
        if self.is_normalised:
            inputs = (inputs - self.mean) / self.std
        return self.network(inputs)

    def _checked_tree(self, inputs: Tree) -> Tree:
        record = self.record
        try:
            expected = record.input_tree(lambda _: torch.empty(0))
            tree = conform(to_tree(inputs, "inputs"), expected, "inputs")
        except TreeError as error:
            raise DataError(f"{error}") from error
        for form, (path, tensor) in zip(record.inputs, named_tensors(tree, "inputs"), strict=True):
            found = str(tensor.dtype).removeprefix("torch.")
            if found != form.dtype or tensor.dim() != len(form.shape) + 1:
                raise DataError(
                    f"{path} are {found} of shape {tuple(tensor.shape)}; the model takes {form.dtype} of "
                    f"(B, {', '.join(map(str, form.shape))})"
                )
        return tree

    def _check(self, inputs: Tensor) -> None:
        form, needed = self.record.input, f"(B, {', '.join(map(str, self.record.input.shape))})"
        if not isinstance(inputs, Tensor):
            raise DataError(
                f"the inputs are a {type(inputs).__name__}; the model takes a tensor {needed}: "
                "torch.from_numpy(x) makes one of an array"
            )
        if inputs.dim() != len(form.shape) + 1:
            raise DataError(
                f"the inputs have shape {tuple(inputs.shape)}; the model takes batches, {needed}: one sample "
                "is x[None]"
            )
        # Of images sides may differ, if the network can take that; and of sequences the length.
        if form.layout == "CHW" and inputs.shape[1] != form.shape[0]:
            raise DataError(
                f"the inputs have shape {tuple(inputs.shape)}; the model takes {needed}, with "
                f"{form.shape[0]} channels before height and width: x.permute(0, 3, 1, 2), if they come last"
            )
        if inputs.dtype == torch.uint8 and self.record.scale is None:
            raise DataError(
                "the inputs are bytes, and the model was trained on float32; give it such numbers"
            )
        # Whoever has made a module of doubles of this one gives it such.
        is_double = inputs.dtype == torch.float64 != self.scale.dtype
        dtype = str(inputs.dtype).removeprefix("torch.")
        if form.dtype not in {"uint8", "float32"}:
            if dtype != form.dtype:
                raise DataError(f"the inputs are {dtype}; the model takes {form.dtype}")
        elif is_double or inputs.dtype in _NO_INPUTS:
            bytes_too = "" if self.record.scale is None else "uint8 from 0 to 255, or "
            scaled = "" if self.record.scale is None else " from 0 to 1"
            raise DataError(f"the inputs are {dtype}; the model takes {bytes_too}float32{scaled}")

    def _numbers(self, images: Tensor) -> Tensor:
        place = torch.empty(images.shape, dtype=torch.float32, device=images.device)
        if images.device.type == "cpu":
            return to_numbers(images, place)
        # By a number of its own: a GPU would multiply by the inverse of one that the host gives it.
        return place.copy_(images).div_(self.scale)


def load(
    run: str | os.PathLike[str],
    checkpoint: CheckpointName = "best",
    *,
    code: str | None = None,
    trust_code: bool = False,
    device: str = "cpu",
    weights: WeightsName = "model",
    model: nn.Module | None = None,
) -> LoadedModel:
    """Rebuild the network of a run, with its normalisation inside, in evaluation mode.

    On the same machine, with as many threads, its outputs are those of the run's own evaluation to the bit.
    Nothing is unpickled, and nothing that the folder names is imported but what you have permitted: a builtin
    model needs no permission, nor does a run that you made yourself on this machine.

    Args:
        run: Folder of the run; it may be anybody's.
        checkpoint: ``"best"`` by the job's metric, ``"last"``, or a number of steps. In place of a damaged
            one the one before it is taken, with a warning; of a number of steps it is that one or an error.
        code: ``module:function`` that builds the network, from your working folder and packages: for a run of
            somebody else's, or where the code has moved since.
        trust_code: Import and run whatever the folder names.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"auto"``.
        weights: ``"model"``, or ``"ema"`` or ``"swa"`` where the run kept such an average.
        model: A network that is made as the run's was, to be given its weights in place of one that is built:
            for a run that was given its model as an object.

    Returns:
        Takes (B, …) float32 as the run's batches had them, or images in bytes, uint8. It has the attributes
        ``class_names``, ``record`` (what ``model.json`` says) and ``network`` (without the normalisation).

    Raises:
        CheckpointError: The folder holds no model, or none that is whole; it is of a later series; or the
            class has changed since (the message names what differs).
        JobError: It names code that you have not permitted, or that cannot be imported.
    """
    folder = Path(run)

    def warn(sentence: str) -> None:
        warnings.warn(sentence, RuntimeWarning, stacklevel=3)

    permission = permitted(folder, code=code, trust_code=trust_code)
    return load_model(permission, checkpoint, device=device, weights=weights, tell=warn, model=model)


def check_batch_size(batch_size: int | None) -> None:
    """Check the number of samples that go through a model at once, if one is given.

    Raises:
        JobError: It is no whole number of at least 1.
    """
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise JobError(f"batch_size is {batch_size!r}; it is a whole number of at least 1")


def load_model(
    permission: Permission,
    checkpoint: CheckpointName = "best",
    *,
    device: str = "cpu",
    weights: WeightsName = "model",
    tell: Tell,
    model: nn.Module | None = None,
) -> LoadedModel:
    """Load as ``load`` does what may be followed of a folder.

    Args:
        permission: The folder, and what of it may be followed.
        checkpoint: As there.
        device: As there.
        weights: As there.
        tell: Told, as sentences, of what was passed over.
        model: As there.
    """
    folder = permission.folder
    check_state_named(checkpoint, weights)
    record = read_model_record(folder)
    place = resolve_device(device)
    read = partial(read_state, folder, record, checkpoint, weights=weights)
    network, state, name = model, None, record.model.name
    if network is None:
        choice, base = permission.model_code(record)
        name = choice.name
        if is_import_path(name):
            network, state = _build_while_reading(partial(build_network, choice, record, base), read, tell)
        else:
            network = build_network(choice, record, base)
    if state is None:
        state = read(max_bytes=nbytes(network), extra=gives_extra_state(network), tell=tell)
    fill(network, state, place, whose=f"{folder}: model '{name}'")
    return LoadedModel(network, record, place)


def _build_while_reading(
    build: Callable[[], nn.Module], read: Callable[..., NetworkState], tell: Tell
) -> tuple[nn.Module, NetworkState | None]:
    """Build a network of the user's, which fills it, and meanwhile read and digest what it is to be given.

    Returns:
        The network, and its state, if that could be read without knowing how large it has to be.
    """
    told: list[str] = []
    with ThreadPoolExecutor(1) as beside:
        reading = beside.submit(read, max_bytes=machine_bytes() // _AHEAD, tell=told.append)
        network = build()
    try:
        state = reading.result()
    except CheckpointError:
        # Perhaps for its size alone.
        return network, None
    for sentence in told:
        tell(sentence)
    return network, state
