"""The plugins of a job in any training loop: checked, sandboxed and held to their budgets as in a run.

    with ringfence.plugin_host(["augment", "gradclip", {"optim": {"lr": 0.001}}], model=model) as host:
        for inputs, targets in host.augment(loader):
            outputs = model(inputs)
            loss = host.loss((inputs, targets), outputs, criterion(outputs, targets))
            loss.backward()
            host.step()

Nothing is started before all of it is checked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..discovery.catalog import Catalog, catalog
from ..discovery.used_process import refuse_used_process
from ..engine.step import Update
from ..engine.tensor_names import named_parameters
from ..engine.weights import Weights
from ..hooks.errors import JobError
from ..hooks.roles.optimizer import OPTIMIZER
from ..job.job_file import check_job
from ..job.python_job import apply_keys
from ..job.smoke_job import SMALL
from ..job.yaml_document import dump_yaml, parse_yaml
from ..plugins.manager import Hooks
from ..run.load_plugins import Planned, load, plan, with_input_range
from ..run.plugin_sandbox import open_sandbox, starter
from .host_optimizer import NONE_REACHED, learning_without, reaches_none
from .loop_batches import BatchForm
from .loop_host import LoopHost, Settings
from .loop_report import OnReport, ReportKeeper

_LOGGER = logging.getLogger(__name__)
#: What messages name in place of a file.
_ORIGIN = "plugin_host()"
_LISTED = 3


@contextmanager
def plugin_host(
    plugins: Sequence[str | Mapping[str, Any]],
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    seed: int = 0,
    grad_accum_steps: int = 1,
    steps_total: int = 0,
    schedule: Callable[[int], float] | None = None,
    num_classes: int | None = None,
    batch_keys: tuple[str, str] = ("inputs", "targets"),
    input_range: tuple[float, float] | None = None,
    memory_fraction: float | None = None,
    save_every: int = 1,
    on_report: OnReport | None = None,
    tell: Callable[[str], None] | None = None,
) -> Iterator[LoopHost]:
    """Give plugins to a training loop that is not ours, each in its sandbox; a context manager.

    Args:
        plugins: As in a job: a name, ``{name: options}``, or that with settings beside it, as
            ``{"augment": {"ops": ["mixup"]}, "workers": 2, "on_failure": "disable"}``.
        model: On its device already; its parameters become views of memory that plugins can read, but those
            that require no gradient, which no plugin is shown.
        optimizer: Of torch, over the model's parameters, if none of the plugins is an optimizer. Adapters
            find that of their framework.
        seed: Of every random number of the plugins.
        grad_accum_steps: Batches of one step; the last step of a pass over the loader may have fewer.
        steps_total: Steps that the loop will take, as plugins are told; 0 if it is not known.
        schedule: Step to what a plugin's own learning rate is multiplied by; 1 by default.
        num_classes: K, where targets are classes: mixing labels needs it. None for numbers.
        batch_keys: Where inputs and targets are, if the loader yields dicts.
        input_range: Least and largest number of the inputs; told to our own ``augment``, which otherwise
            looks at the first batch.
        memory_fraction: Share of the machine's memory for each plugin, at most 0.15.
        save_every: Steps between saves of the state of plugins that have one. One that has failed is started
            anew only where its state is that before the call; with 0 none is kept.
        on_report: Given what plugins log and monitors report: plugin, step, numbers, report.
        tell: Given sentences that the user should know; by default Python's ``logging`` is.

    Raises:
        JobError: A plugin is not installed, an option or setting is wrong, a permission is missing, there
            are two optimizers, or one of another model, or this is one process of several.
        IncompatiblePluginError: A plugin does not fit a series that it must work with.
        UsedProcessError: Code of a plugin runs in this process already, or would at its start.
        PluginError: A plugin could not be started.
        SandboxUnavailableError: It cannot be isolated on this machine.
    """
    installed = catalog()
    planned = _plan(plugins, seed, memory_fraction, installed, own_optimizer=optimizer is not None)
    if input_range is not None:
        planned = with_input_range(planned, lambda: input_range)
    trusted = [item.spec.distribution for item in planned if item.spec.isolation == "trusted"]
    refuse_used_process(installed, trusted)
    device = _device(model)
    if optimizer is not None and reaches_none(optimizer, model):
        raise JobError(f"optimizer: the {type(optimizer).__name__} {NONE_REACHED}")
    settings = Settings(
        BatchForm(batch_keys, num_classes), seed, grad_accum_steps, steps_total, schedule, save_every
    )
    keeper = ReportKeeper(tell or _LOGGER.warning, on_report)
    with ExitStack() as stack:
        sandbox = open_sandbox(planned, stack)
        hooks = Hooks(seed, keeper)
        stack.callback(hooks.close)
        load(planned, hooks, starter(sandbox), keeper.event)
        frozen = [name for name, parameter in named_parameters(model).items() if not parameter.requires_grad]
        _tell_left_out(optimizer, model, keeper.event)
        weights = Weights(model, device, None if sandbox is None else sandbox.allocate, frozen)
        stack.enter_context(weights.pinned())
        update = Update(model=model, weights=weights, hooks=hooks, device=device, optimizer=optimizer)
        host = LoopHost(planned, update, settings, keeper)
        stack.callback(host.close)
        yield host


def _plan(
    plugins: Sequence[str | Mapping[str, Any]],
    seed: int,
    memory_fraction: float | None,
    installed: Catalog,
    *,
    own_optimizer: bool,
) -> list[Planned]:
    """Find and check the plugins, as those of a job are; nothing is started."""
    shares = {} if memory_fraction is None else {"memory_fraction": memory_fraction}
    # One name in place of a list is told; it is not a list of letters.
    is_list = isinstance(plugins, Iterable) and not isinstance(plugins, str | Mapping)
    keys = {**shares, "seed": seed, "plugins": list(plugins) if is_list else plugins}
    document = parse_yaml(dump_yaml(dict(SMALL)), _ORIGIN)
    job = check_job(document, apply_keys(document, keys, _ORIGIN))
    planned = plan(job, installed, base=Path.cwd(), optional={OPTIMIZER.name})
    theirs = next((item for item in planned if item.spec.role == OPTIMIZER.name), None)
    if own_optimizer and theirs is not None:
        raise JobError(
            f"plugin_host is given an optimizer of torch, and '{theirs.spec.name}' is an optimizer too; "
            "keep one of them"
        )
    return planned


def _tell_left_out(
    optimizer: torch.optim.Optimizer | None, model: nn.Module, tell: Callable[[str], None]
) -> None:
    """Tell which parameters learn nothing since the optimizer does not have them: that may be meant."""
    names = [] if optimizer is None else learning_without(optimizer, model)
    if names:
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        tell(
            f"the optimizer does not have {', '.join(map(repr, names[:_LISTED]))}{more} of the model's "
            "parameters, which stay as they are; if they are to, let them require no gradient"
        )


def _device(model: nn.Module) -> torch.device:
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) != 1:
        told = "has no parameters" if not devices else f"lies on {', '.join(sorted(map(str, devices)))}"
        raise JobError(f"the model {told}; plugin_host needs all of it on one device")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        ranks = torch.distributed.get_world_size()
        if ranks > 1:
            raise JobError(f"this is one of {ranks} processes that train together; plugin_host works in one")
    return devices.pop()
