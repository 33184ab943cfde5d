"""Facts of a run that are known before the first step: of its data, its model and its plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine.data import Data, Dataset
from ..engine.layer_shapes import layer_rows
from ..engine.sample_weights import SampleWeights
from ..engine.setup import Setup
from ..engine.tensor_names import named_buffers, named_parameters
from ..hooks.trees import map_tensors
from ..job.job_file import Job, losses_of
from ..tensors.tree_form import describe_tree
from .start_weights import StartWeights

#: Rows of the table of layers.
MAX_LAYERS = 16
#: Classes whose samples are told one by one.
MAX_CLASSES = 1000
#: Between which numbers inputs lie is looked up in at most so many bytes: at most a second or two.
MAX_LOOKED_AT_BYTES = 4 << 30


def start_facts(
    job: Job, plugins: Sequence[str], setup: Setup, macs: int | None, started: StartWeights | None = None
) -> dict[str, Any]:
    """Return the facts of a run, as JSON data; ``run.json`` has them under ``start``.

    Args:
        job: The run's.
        plugins: Names of its plugins, in order.
        setup: What is trained.
        macs: As ``count_macs`` counts them for one sample; None if nobody has asked.
        started: What the model has weights from; None if they are new.
    """
    return {
        "data": {"name": job.data.name, **_data_facts(setup.data, setup.weights)},
        "model": {
            "name": job.model.name,
            **_model_facts(setup),
            "macs": macs,
            "started_from": None if started is None else started.to_dict(),
        },
        "plan": _plan_facts(job, plugins, setup),
    }


def _data_facts(data: Data, weights: SampleWeights | None) -> dict[str, Any]:
    train = data.train
    listed = train.num_classes is not None and train.num_classes <= MAX_CLASSES
    return {
        "shape": list(train.inputs.shape[1:]) if isinstance(train.inputs, Tensor) else None,
        "dtype": str(train.inputs.dtype).removeprefix("torch.") if isinstance(train.inputs, Tensor) else None,
        **_trees(train),
        "range": _range(train),
        "normalised": data.mean is not None,
        "classes": train.num_classes,
        "class_names": list(train.class_names) if listed else [],
        "parts": {name: _part_facts(part) for name, part in data.parts().items()},
        **({} if weights is None else {"drawn_by_weight": weights.told, "distinct": weights.distinct}),
    }


def _part_facts(part: Dataset) -> dict[str, Any]:
    """Return the samples of a part, and, of class numbers, how many there are of each and which lack any."""
    facts: dict[str, Any] = {"samples": len(part)}
    if part.num_classes is None:
        return facts
    if part.is_read:
        # Nobody has seen the targets of all of them.
        return {**facts, "uncounted": True}
    if part.at_positions:
        return {**facts, "by_position": True}
    if part.targets.is_floating_point():
        return facts
    counts = torch.bincount(part.samples_targets(), minlength=part.num_classes)
    facts["a_class"] = [int(counts.min()), int(counts.max())]
    facts["empty_classes"] = int((counts == 0).sum())
    if part.num_classes <= MAX_CLASSES:
        facts["counts"] = counts.tolist()
    return facts


def _trees(part: Dataset) -> dict[str, str]:
    """Return ``trees``, inputs and targets in words, where they are not one tensor each."""
    trees = {"inputs": part.inputs, "targets": part.targets}
    samples = {
        name: map_tensors(_first, tree) for name, tree in trees.items() if not isinstance(tree, Tensor)
    }
    told = [f"{name} {describe_tree(tree)}" for name, tree in samples.items()]
    return {"trees": "; ".join(told)} if told else {}


def _first(tensor: Tensor) -> Tensor:
    return tensor[0] if len(tensor) else tensor


def _range(part: Dataset) -> list[float] | None:
    """Return the least and the largest number of the inputs as they are stored; None of very many."""
    if not isinstance(part.inputs, Tensor) or part.is_read or part.inputs.nbytes > MAX_LOOKED_AT_BYTES:
        return None
    return [bound.item() for bound in part.inputs.aminmax()]


def _model_facts(setup: Setup) -> dict[str, Any]:
    parameters, buffers = named_parameters(setup.model), named_buffers(setup.model)
    rows, left_out = layer_rows(setup.model, setup.tried.shapes, MAX_LAYERS)
    return {
        "layers": rows,
        "layers_left_out": left_out,
        "parameters": sum(parameter.numel() for parameter in parameters.values()),
        "trained": sum(p.numel() for p in parameters.values() if p.requires_grad),
        "bytes": sum(tensor.nbytes for tensor in (*parameters.values(), *buffers.values())),
    }


def _plan_facts(job: Job, plugins: Sequence[str], setup: Setup) -> dict[str, Any]:
    config, steps, an_epoch = setup.config, setup.steps_total, setup.plan.steps_per_epoch
    eval_every, checkpoint_every = config.eval_every or an_epoch, config.checkpoint_every or an_epoch
    return {
        "steps": steps,
        "steps_per_epoch": an_epoch,
        "epochs": round(steps / an_epoch, 2),
        "batch_size": config.batch_size,
        "grad_accum_steps": config.grad_accum_steps,
        # The end is always evaluated and kept.
        "evaluations": -(-steps // eval_every),
        "eval_every": eval_every,
        "checkpoints": -(-steps // checkpoint_every),
        "checkpoint_every": checkpoint_every,
        "schedule": job.schedule.name,
        "loss": " + ".join(choice.name for choice in losses_of(job).values()),
        "metric": setup.objective.metric_name,
        "plugins": list(plugins),
        "averages": [name for name in ("ema", "swa") if getattr(job.averaging, name, None) is not None],
        "device": str(setup.device),
        "threads": torch.get_num_threads(),
    }
