"""A role is added by one file: everything else is told by it, and nothing else is edited."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from ..conftest import call

pytestmark = pytest.mark.room

CLONE = Path(__file__).parents[2]
PROBE = '''\
"""Probe: looks at outputs and losses; the weights are the same without it."""

from __future__ import annotations

from torch import Tensor

from ..role import Method, Moment, Role, hookspec
from ..types import StepInfo


@hookspec
def probe_forward(outputs: Tensor, step: StepInfo) -> float | None:
    """Look at what the model returned.

    Called for every micro-batch.

    Args:
        outputs: What the model returned.
        step: Counters.

    Returns:
        A finite number, which goes to the run's metrics under the name of the plugin.

    If it fails: it is disabled (by default) and the run goes on.
    """


@hookspec
def probe_backward(losses: Tensor, step: StepInfo) -> float | None:
    """Look at the loss of each sample.

    Called for every micro-batch, after the optimizer.

    Args:
        losses: (B,) float32.
        step: That batch's counters.

    Returns:
        As ``probe.forward``.

    If it fails: it is disabled (by default) and the run goes on.
    """


PROBE = Role(
    "probe",
    forward=Method(probe_forward, Moment.AFTER_LOSS),
    backward=Method(probe_backward, Moment.AFTER_STEP),
    on_failure="disable",
)
'''
#: Of the same shape, with all that a role may say of itself beside.
ODD = (
    PROBE.replace("probe", "odd")
    .replace("PROBE", "ODD")
    .replace("Probe", "Odd")
    .replace(
        'on_failure="disable",\n',
        'autograd=True,\n    deadline_s=600.0,\n    fires_in=frozenset({"search"}),\n',
    )
)


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """What came of using a copy of the core that has the files."""
    folder = tmp_path_factory.mktemp("role")
    core = folder / "lib" / "ringfence"
    shutil.copytree(CLONE / "core", core, ignore=shutil.ignore_patterns("__pycache__"))
    roles = core / "hooks" / "roles"
    (roles / "probe.py").write_text(PROBE)
    (roles / "odd.py").write_text(ODD)
    used = folder / "used"
    used.mkdir()
    path = os.pathsep.join([str(core.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    script = Path(__file__).with_name("with_new_role.py")
    done = call(sys.executable, "-P", script, CLONE, used, cwd=used, env={"PYTHONPATH": path})
    return json.loads(done.stdout.splitlines()[-1])


def test_the_record_of_the_series_and_the_page_of_the_hooks_tell_it(facts):
    record = facts["record"]

    assert "probe" in record["roles"]
    assert record["hooks"]["probe_forward"] == ["outputs: Tensor", "step: StepInfo"]
    assert record["when"]["probe_backward"] == "after_step"
    assert record["results"]["probe_forward"]["forms"] == ["number"]
    assert "probe.forward" in facts["page"]
    assert "Look at the loss of each sample." in facts["page"]


def test_the_template_makes_a_plugin_of_it_that_the_check_accepts(facts):
    assert "gradient, monitor, odd, optimizer, probe." in facts["help"]
    assert facts["new"][0] == 0, facts["new"]
    assert "def forward(self, outputs: Tensor, step: StepInfo) -> float | None:" in facts["source"]
    assert '"""Look at what the model returned."""' in facts["source"]
    # No series before that one has the role.
    assert f'"ringfence>={facts["record"]["series"]}' in facts["pyproject"]
    status, told = facts["check"]
    assert status == 0, told
    assert told.startswith("OK  plugin 'feel' (ringfence-feel 0.1.0)")
    assert "trained for 5 steps" in told


def test_it_runs_sandboxed_and_trusted_alike_and_changes_no_weight(facts):
    without, nothing = facts["without"]
    weights, numbers = facts["sandboxed"]

    assert len(without) == 64
    assert nothing == []
    assert weights == without
    assert [set(line) - {"step"} for line in numbers] == [{"feel/forward", "feel/backward"}] * 3
    assert all(isinstance(value, float) for line in numbers for value in list(line.values())[1:])
    assert facts["trusted"] == facts["sandboxed"]


def test_it_is_fuzzed_with_all_others(facts):
    fuzzed = facts["fuzzed"]

    assert fuzzed["methods"] == ["forward", "backward"]
    assert fuzzed["executions"] >= 50
    assert fuzzed["good"] == ["accepted", "0.5"]
    assert fuzzed["bad"][0] == "PluginProtocolError"
    assert "returned a number that is not finite" in fuzzed["bad"][1]


def test_graphs_are_recorded_where_a_role_asks_for_them_and_a_call_has_its_time(facts):
    found = facts["properties"]

    (recorded, gradient), state = found["sandboxed"]
    assert recorded == 1.0
    assert gradient > 0
    assert state == {"seen": [True, True]}
    assert found["trusted"] == found["sandboxed"]
    assert found["deadline_s"] == 600.0


def test_a_job_for_another_command_is_refused(facts):
    assert (
        "'curve' is of role odd, which 'ringfence train' never calls; take it out of the job, or use it in "
        "'ringfence search'"
    ) in facts["properties"]["train"]
