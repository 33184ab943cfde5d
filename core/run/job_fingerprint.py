"""The fingerprint of a job: what decides its run's weights, and what of that may change on resuming."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from ..engine.checkpoints.fingerprint import SCHEDULE_STEPS, Fingerprint
from ..engine.checkpoints.fingerprint_diff import CONTENTS, HELD_OUT, STATE, Difference
from ..engine.data_digest import digest_data
from ..engine.schedules import WITHOUT_LENGTH
from ..engine.setup import Setup
from ..job.job_file import Job
from ..plugins.interface import PluginSpec
from ..version import __version__

#: What a resumed run must agree with. How long it trains and when it is judged (``steps``, ``epochs``,
#: ``early_stopping``, ``eval_every``) may be changed on purpose, so that a finished run can be made longer;
#: a schedule then follows the new length. The rest is about cost, such as workers, threads and snapshots.
_KEYS = (
    "model",
    "data",
    "batch_size",
    "grad_accum_steps",
    "loss",
    "metric",
    "schedule",
    "seed",
    HELD_OUT,
)
#: Likewise, where a job has them: to one of before there were such keys, a job without is the same.
_KEYS_IF_SET = ("start_from", "freeze", "averaging", "alternate", "sample_weights")

#: What nobody can accept as different, and why.
NEVER: Mapping[str, str] = MappingProxyType(
    {
        "model": "the weights in the checkpoint are those of that model",
        "data": "the order of the samples comes from it; data that has moved may be put back, or linked to",
        "batch_size": "it decides which samples make a step",
        "grad_accum_steps": "it decides which samples make a step",
        "seed": "the order of the samples and every random number come from it",
        "start_from": "the run has started, and its weights are those in the checkpoint",
        HELD_OUT: "it decides which samples are trained on",
        "sample_weights": "it decides which samples are trained on",
        "freeze": "the state of the plugins is of the parameters that are trained",
        "averaging": "the averages in the checkpoint were made so",
    }
)


def fingerprint(job: Job) -> Mapping[str, Any]:
    """Return what decides a run's weights, as JSON data: a resumed run must agree with it."""
    whole = job.model_dump(mode="json")
    whole["metric"] = job.metric.file_form()
    values = {key: whole[key] for key in (*_KEYS, *(key for key in _KEYS_IF_SET if whole[key]))}
    plugins = whole["plugins"]
    # When a monitor is called makes no difference to the weights, unless it may ask for something.
    asking = {
        plugin["name"]: {key: plugin[key] for key in ("allow", "every")}
        for plugin in plugins
        if plugin["allow"]
    }
    values |= {"plugins": [{plugin["name"]: plugin["options"]} for plugin in plugins]}
    return values | ({"allow": asking} if asking else {})


def environment(
    job: Job, specs: Sequence[PluginSpec], steps_total: int, device: torch.device
) -> Mapping[str, Any]:
    """Return what a run's weights depend on besides the keys that it must agree with, as JSON data.

    Args:
        job: The run's.
        specs: Its plugins.
        steps_total: Optimizer steps that it asks for.
        device: Where its loop runs.
    """
    on_gpu = device.type == "cuda"
    return {
        SCHEDULE_STEPS: None if job.schedule.name in WITHOUT_LENGTH else steps_total,
        "ringfence": __version__,
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "threads": torch.get_num_threads(),
        # Which vector instructions torch uses; sums are then made in another order.
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "plugins": {
            spec.name: {"version": f"{spec.distribution} {spec.version}", "threads": spec.threads}
            for spec in specs
        },
    }


def fingerprint_of(job: Job, specs: Sequence[PluginSpec], setup: Setup) -> Fingerprint:
    """Return what decides the weights of a job's run, to be resumed with nothing accepted.

    Args:
        job: The run's.
        specs: Its plugins.
        setup: What it trains.
    """
    weights = {} if setup.weights is None else {"sample_weights": setup.weights.digest()}
    return Fingerprint(
        values={**fingerprint(job), CONTENTS: {**digest_data(setup.data), **weights}},
        environment=environment(job, specs, setup.steps_total, setup.device),
        never=NEVER,
    )


def accepting(
    fingerprint: Fingerprint,
    accept: Collection[str],
    accepted: Sequence[Mapping[str, Any]],
    on_accepted: Callable[[int, Sequence[Difference]], None],
) -> Fingerprint:
    """Return ``fingerprint`` with what may differ.

    Args:
        fingerprint: What ``fingerprint_of`` returned.
        accept: What the user lets differ when the run is resumed.
        accepted: What the user has let differ before, as ``run.json`` has it.
        on_accepted: As in ``Fingerprint``.
    """
    return replace(
        fingerprint,
        accept=frozenset(accept),
        remembered=tuple(Difference.from_dict(entry) for entry in accepted),
        started_fresh=dict(_started_fresh(accepted)),
        on_accepted=on_accepted,
    )


def _started_fresh(accepted: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    """Yield each plugin that was started without its state, and when: the last time comes last."""
    for entry in accepted:
        key, step = str(entry.get("key")), entry.get("step")
        if key.startswith(STATE) and isinstance(step, int):
            yield key.removeprefix(STATE), step
