"""The builtin plugins in their sandboxes, in a plain loop: the weights are those of ``ringfence train``."""

import math
from pathlib import Path

import pytest
import torch

from ringfence import plugin_host
from ringfence.engine.data import Normalise, batches
from ringfence.engine.weights import weights_sha256
from ringfence.job.job_file import check_job
from ringfence.job.yaml_document import dump_yaml, parse_yaml
from ringfence.reproducibility.deterministic import repeatable
from ringfence.reproducibility.seeding import seed_run
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare

PLUGINS = [
    {"augment": {"ops": [{"crop": {"padding": 2}}, "flip", "mixup"]}, "workers": 2},
    {"gradclip": {"max_norm": 1.0}},
    {"monitor": {"bins": 8}, "every": 3},
    {"optim": {"algorithm": "adamw", "lr": 0.001}},
]
JOB = {
    "model": {"name": "mlp", "hidden": [16]},
    "data": {"name": "mnist10k", "limit": 100},
    "steps": 11,
    "batch_size": 8,
    "grad_accum_steps": 2,
    "schedule": "cosine",
    "seed": 3,
    "threads": 1,
}


def prepared(plugins):
    job = check_job(parse_yaml(dump_yaml({**JOB, "plugins": plugins}), "a job"))
    return prepare(job, Path.cwd())


def plain_loop(setup, plugins):
    """Train on the batches of a run, in twenty lines that anybody may have written; return the report."""
    model, data, config, plan = setup.model, setup.data, setup.config, setup.plan
    normalise, steps = Normalise(data, setup.device), setup.steps_total
    seed_run(config.seed)
    with (
        repeatable(),
        plugin_host(
            plugins,
            model=model,
            seed=config.seed,
            grad_accum_steps=config.grad_accum_steps,
            steps_total=steps,
            schedule=lambda step: config.schedule.factor(step, steps),
            input_range=(0.0, 1.0),
        ) as host,
    ):
        for first in range(0, steps, plan.steps_per_epoch):
            last = min(first + plan.steps_per_epoch, steps)
            every = batches(
                data.train,
                plan,
                config.seed,
                first_step=first,
                steps_total=last,
                lr_factor=lambda _: math.nan,
                as_stored=True,
            )
            waiting = []
            for batch in host.augment([batch for batch, _ in every]):
                sizes = plan.sizes(host.global_step)
                outputs = model(normalise(batch.inputs))
                loss = host.loss(batch, outputs, config.loss(outputs, batch.targets))
                (loss / (sum(sizes) / len(batch)) if len(sizes) > 1 else loss).backward()
                waiting.append(batch)
                if len(waiting) == len(sizes):
                    host.step()
                    waiting.clear()
        return host.report()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What ``ringfence train`` comes to, the plugins trusted: where they run changes nothing."""
    before = torch.get_num_threads()
    ready = prepared([{**item, "isolation": "trusted", "workers": 1} for item in PLUGINS])
    outcome = execute(ready, tmp_path_factory.mktemp("run") / "run", RunOptions(report=False))
    yield outcome.result.weights_sha256
    torch.set_num_threads(before)


def test_a_plain_loop_comes_to_the_weights_of_a_run(trained):
    setup = prepared(PLUGINS).setup

    report = plain_loop(setup, PLUGINS)

    assert weights_sha256(setup.model) == trained
    assert report.faults == ()
    assert {plugin.name: plugin.calls > 0 for plugin in report.plugins} == {
        name: True for item in PLUGINS for name in item if name not in {"workers", "every"}
    }
    assert all(plugin.peak_bytes <= plugin.budget_bytes for plugin in report.plugins)
    assert report.logged["gradclip/norm"] > 0
