"""Plugins that are broken on purpose, each in one way: every one is found before a run starts.

The same plugin, whole, is accepted. The series are those of ``hooks/series.py``: 1.4, 1.5 and 1.6,
the last one running. What only loading or running shows is tried in
``cli/test_check_plugins.py`` and ``run/test_replay.py``.
"""

from dataclasses import dataclass, replace

import pytest

from ringfence.discovery.catalog import catalog
from ringfence.hooks.errors import IncompatiblePluginError
from ringfence.job.job_file import check_job
from ringfence.job.yaml_document import parse_yaml
from ringfence.run.load_plugins import plan

from ..compat import series

JOB = """
model: {name: mlp, hidden: [8]}
data: {name: mnist10k, limit: 64}
steps: 2
batch_size: 16
plugins:
  - clip: {}
  - optim: {algorithm: sgd, lr: 0.1}
"""
WHOLE = """\
from ringfence import Gradients, StepInfo, passthrough


class Clip:
    role = "gradient"
    forward = passthrough

    def __init__(self, factor: float = 0.5) -> None:
        self.factor = factor

    def backward(self, gradients: Gradients, step: StepInfo) -> Gradients:
        step.log("epoch", step.epoch)
        return {name: gradient * self.factor for name, gradient in gradients.items()}
"""


@dataclass(frozen=True)
class Break:
    """One change, the rule that finds it, and the line at which it does; 0 where no line is to blame."""

    old: str
    new: str
    rule: str
    line: int = 0
    requires: str = "ringfence>=1.4"


BREAKS = {
    "a renamed argument": Break("self, gradients: G", "self, grads: G", "E-ARG", 11),
    "an argument of a later series": Break("step: StepInfo", "step: StepInfo, parameters: dict", "E-ARG", 11),
    "a removed attribute": Break("step.epoch", "step.iteration", "E-ATTR", 12),
    "an attribute of a later series": Break("step.epoch", "step.pass_index", "E-ATTR", 12),
    "an attribute that a helper reads": Break(
        "step.log(", "self.note(step)\n\n    def note(self, at):\n        at.record(", "E-ATTR", 15
    ),
    "a new hook with an old range": Break('"gradient"', '"augment"', "E-HOOK", 11),
    "a name that went": Break("Gradients, StepInfo,", "Gradients, Norms, StepInfo,", "E-NAME", 1),
    "a name of a later series": Break("Gradients, StepInfo,", "Gradients, StepInfo, connect,", "E-NAME", 1),
    "a name from the inside": Break(
        "from ringfence import", "from ringfence.hooks.types import", "E-NAME", 1
    ),
    "a role that there is not": Break('"gradient"', '"gradients"', "E-ROLE", 4),
    "a method that is spelt otherwise": Break("def backward", "def backwards", "E-METHOD", 4),
    "a method that became asynchronous": Break("    def backward", "    async def backward", "E-METHOD", 11),
    "a range from the latest series on": Break("", "", "E-SPAN", requires="ringfence>=1.6"),
    "a range that ends before the core": Break("", "", "E-EXCLUDES-CORE", requires="ringfence>=1.4,<1.6"),
    "a class that moved": Break("class Clip", "class Clipper", "U-SOURCE"),
    "a file that is no Python": Break("class Clip:", "class Clip", "U-SOURCE"),
}


@pytest.fixture
def planned(tmp_path):
    """Return a function that plans a job with a plugin, as a run does before it starts anything."""

    def run(text, requires="ringfence>=1.4"):
        folder = series.install(tmp_path / "site", text=text, requires=(requires,))
        ours = catalog()
        installed = replace(ours, plugins={**ours.plugins, **series.found(folder).plugins})
        job = check_job(parse_yaml(JOB, "job.yaml"))
        index = series.index_of("1.4", "1.5", "1.6")
        return plan(job, installed, index, series.RUNNING)

    return run


def test_whole_it_is_accepted(planned):
    clip, optim = planned(WHOLE)

    assert (clip.verdict.decision, optim.verdict.decision) == ("accepted", "accepted")


@pytest.mark.parametrize("name", BREAKS)
def test_broken_it_is_refused_before_a_run_starts(planned, name):
    broken = BREAKS[name]
    text = WHOLE.replace(broken.old, broken.new, 1)
    assert (text == WHOLE) == (broken.requires != "ringfence>=1.4"), "the change changes nothing"

    with pytest.raises(IncompatiblePluginError) as caught:
        planned(text, broken.requires)

    message = str(caught.value)
    assert f"  {broken.rule} " in message
    assert f"acme_clip.py:{broken.line}" in message or not broken.line, message
    assert "plugin author:" in message
    assert "you:" in message
