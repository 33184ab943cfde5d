"""The registry of models: names, and how a job's options reach them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..engine.data import Data
from ..hooks.errors import DataError, JobError
from ..job.function_options import OptionError, check_named
from ..job.user_code import is_import_path
from ..tensors.tree_form import describe_tree
from .cnn import cnn
from .data_shape import Shape, shape_of
from .lstm import lstm
from .mlp import mlp
from .resnet import resnet18
from .transformer import transformer
from .unet import unet
from .user_model import user_model
from .vit import vit

#: Name in the job to what builds it; its keyword parameters are the options.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn": cnn,
    "lstm": lstm,
    "mlp": mlp,
    "resnet18": resnet18,
    "transformer": transformer,
    "unet": unet,
    "vit": vit,
}
#: Those that give an output at each position: of sequences the first two, of images the third.
POSITIONED = frozenset(("lstm", "transformer", "unet"))


def check_model(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` with the types of the model's own; nothing is built; raises as ``check_named``."""
    return check_named("model", name, options, MODELS, JobError)


def build_model(
    name: str,
    options: Mapping[str, Any],
    data: Data,
    *,
    base: Path,
    given: Callable[..., Any] | None = None,
) -> nn.Module:
    """Build the model of a job for its data; weights come from torch's global generator.

    Args:
        name: Key of ``MODELS``, or ``module:function``.
        options: Keyword arguments of the model.
        data: Gives the shapes of inputs and outputs.
        base: Folder where modules are looked for too.
        given: What builds it, in place of what has that name.

    Raises:
        JobError: Name or options are wrong.
        DataError: The data does not fit the model.
    """
    if given is not None:
        return user_model(name, options, shape_of(data), base, given)
    shape = shape_of(data)
    if not shape.outputs and not is_import_path(name):
        raise DataError(
            f"builtin models predict classes or numbers; the targets are "
            f"{describe_tree(data.train.targets)}. Use a model of your own"
        )
    return build_for(name, options, shape, base=base)


def build_for(name: str, options: Mapping[str, Any], shape: Shape, *, base: Path) -> nn.Module:
    """Build a model as ``build_model`` does, where only the shapes of its data are known."""
    if is_import_path(name):
        return user_model(name, options, shape, base)
    try:
        checked = check_model(name, options)
    except OptionError as error:
        raise JobError(f"model '{name}': {error}") from error
    if shape.positions and name not in POSITIONED:
        raise DataError(
            f"model '{name}' gives one output a sample, and the data have one at each position; use "
            f"{', '.join(sorted(POSITIONED))}, or a model of your own"
        )
    return MODELS[name](shape, **checked)
