"""A run that is cut down to try a job out: one step of everything, or a few samples that must be learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from ..engine.averaging import ExponentialMovingAverage, Rule, StochasticWeightAverage
from ..engine.config import TrainConfig
from ..engine.data import Data, Dataset, Plan, epoch_order
from ..engine.read_data import ReadDataset
from ..hooks.errors import JobError
from ..hooks.roles.augment import AUGMENT
from ..job.flags import FAST_DEV_RUN, OVERFIT
from ..job.job_file import Job
from .load_plugins import Planned


@dataclass(frozen=True, slots=True)
class Reduction:
    """How a run is cut down.

    Attributes:
        overfit: Train on so many samples, and evaluate on the same: a model that can learn anything learns
            them by heart. None takes one step of everything, to see that all of a job works.
    """

    overfit: int | None = None

    def reduced(self, data: Data, config: TrainConfig, steps_total: int) -> tuple[Data, TrainConfig]:
        """Return what of the data is used, and how.

        Args:
            data: All of them.
            config: The job's.
            steps_total: Steps that the job would take.

        Raises:
            JobError: There are not as many training samples.
        """
        at_once = config.batch_size * config.grad_accum_steps
        if self.overfit is None:
            data = replace(
                data,
                train=_drawn(data.train, at_once, config.seed),
                validation=_first(data.validation, config.eval_batch_size),
                test=_first(data.test, config.eval_batch_size),
            )
            return data, replace(
                config,
                epochs=None,
                steps=1,
                eval_every=1,
                checkpoint_every=1,
                snapshot_every=1,
                schedule=replace(cast("Any", config.schedule), warmup_steps=0),
                early_stopping=None,
            )
        count = len(data.train)
        if self.overfit > count:
            raise JobError(f"{OVERFIT} {self.overfit}: there are {count:,} training samples; ask for fewer")
        part = _drawn(data.train, self.overfit, config.seed)
        an_epoch = min(Plan(count, config.batch_size, config.grad_accum_steps).steps_per_epoch, steps_total)
        return replace(data, train=part, validation=part, test=None), replace(
            config,
            epochs=None,
            steps=steps_total,
            eval_every=config.eval_every or an_epoch,
            checkpoint_every=config.checkpoint_every or an_epoch,
            early_stopping=None,
        )

    def plugins(self, planned: Sequence[Planned]) -> list[Planned]:
        """Return the plugins that run: each in the one step, or none that changes batches."""
        if self.overfit is None:
            return [replace(item, spec=replace(item.spec, every=1)) for item in planned]
        return [item for item in planned if item.spec.role != AUGMENT.name]

    def rule(self, rule: Rule) -> Rule:
        """Return when an average of the weights is taken."""
        if self.overfit is not None:
            return rule
        if isinstance(rule, ExponentialMovingAverage):
            return replace(rule, every=1)
        return StochasticWeightAverage(start=0.0, every=1)

    def sentences(self, planned: Sequence[Planned], data: Data, job: Job) -> Iterator[str]:
        """Yield what is other than in a run of the job.

        Args:
            planned: The job's plugins.
            data: What of them is used.
            job: The job.
        """
        weights = ["sample_weights"] if job.sample_weights is not None else []
        if self.overfit is None:
            parts = ", ".join(f"{len(part):,} of {name}" for name, part in data.parts().items())
            yield (
                f"{FAST_DEV_RUN}: one step, with each plugin in it, then one evaluation of each part and a "
                f"checkpoint; samples used: {parts}. Without "
                f"{', '.join(['warm-up', *weights])} and early stopping"
            )
            return
        left_out = [item.spec.name for item in planned if item.spec.role == AUGMENT.name]
        without = ["early stopping", *weights, *(f"plugin '{name}'" for name in left_out)]
        yield (
            f"{OVERFIT} {self.overfit}: trained on {self.overfit:,} of the training samples, drawn by the "
            "job's seed, and evaluated on the same, for as many steps as the job has; without "
            f"{', '.join(without)}. What is told as validation says whether the model can learn, and nothing "
            "of what it is worth"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON data for ``run.json``."""
        if self.overfit is None:
            return {"kind": "fast_dev_run"}
        return {"kind": "overfit", "samples": self.overfit}


def _drawn(part: Dataset, count: int, seed: int) -> Dataset:
    """Return samples drawn by the seed: those of one class may lie together."""
    if isinstance(part, ReadDataset) and part.is_stream:
        return replace(part, count=min(count, len(part)))
    places = epoch_order(len(part), seed, 0)[:count].sort().values
    return replace(part, rows=part.rows_at(places))


def _first(part: Dataset | None, count: int) -> Dataset | None:
    return None if part is None else replace(part, rows=part.rows_at(torch.arange(min(count, len(part)))))
