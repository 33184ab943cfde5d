"""The builtin plugins, sandboxed, in a plain loop, in Lightning and in transformers; and a bad one."""

import json
import shutil
from pathlib import Path

import pytest

from ..conftest import call

pytestmark = [pytest.mark.room, pytest.mark.timeout(1200)]

HERE = Path(__file__).parent
LOOPS = ("plain", "lightning", "transformers")
BUILTIN = [
    {"augment": {"ops": [{"crop": {"padding": 1}}, "flip", "mixup"]}, "workers": 2},
    {"gradclip": {"max_norm": 0.5}},
    {"monitor": {"bins": 8}, "every": 2},
    {"optim": {"algorithm": "adamw", "lr": 0.01}},
]
HOWS = {
    "raise": "PluginRaisedError",
    "crash": "PluginCrashedError",
    "hang": "PluginTimeoutError",
    "leak": "PluginMemoryError",
}
#: Policy to what is decided, where the plugin fails once and where it fails each time.
POLICIES = {
    "restart": (["restarted"], ["restarted"] * 3 + ["aborted"]),
    "disable": (["disabled"], ["disabled"]),
    "abort": (["aborted"], ["aborted"]),
}


def train(environment, folder, loop, lists, *flags):
    """Train with each list of plugins in one process of the environment, and return what it tells."""
    shutil.copy(HERE / "loops.py", folder)
    (folder / "plugins.json").write_text(json.dumps(lists))
    done = call(environment.python, "loops.py", loop, folder, *flags, cwd=folder, timeout=800)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    assert len(lines) == len(lists), done.stdout + done.stderr
    return lines


@pytest.fixture(scope="module")
def trained(framework_environment, tmp_path_factory):
    """What ``ringfence train`` comes to."""
    (told,) = train(framework_environment, tmp_path_factory.mktemp("run"), "run", [BUILTIN])
    return told


@pytest.mark.parametrize("loop", LOOPS)
def test_weights_are_those_of_a_run_to_the_bit(framework_environment, trained, tmp_path, loop):
    told, without = train(framework_environment, tmp_path, loop, [BUILTIN, BUILTIN[1:]])

    assert told["steps"] == trained["steps"] == 16
    assert told["sha256"] == trained["sha256"]
    assert without["sha256"] != trained["sha256"]
    assert told["faults"] == []
    assert told["logged"] == ["gradclip", "monitor", "optim"]
    assert told["started"] >= 5
    assert told["left"] == without["left"] == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_a_checkpoint_of_the_framework_has_the_plugins_go_on(framework_environment, trained, tmp_path, loop):
    (told,) = train(framework_environment, tmp_path, loop, [BUILTIN], "resumed")

    assert told["steps"] == trained["steps"]
    assert told["sha256"] == trained["sha256"]


def misbehaving(how, policy, once=""):
    """The builtin plugins with one beside that fails at the fourth step."""
    bad = {"misbehaves": {"how": how, "at": 3}, "on_failure": policy, "deadline_s": 2.0}
    if once:
        bad["misbehaves"]["once"] = once
        bad["write"] = [str(Path(once).parent)]
    if how == "leak":
        bad["memory_fraction"] = 0.03
    return [BUILTIN[1], bad, BUILTIN[3]]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_plugin_that_misbehaves_costs_what_its_policy_says_and_leaves_nothing(
    framework_environment, tmp_path, loop
):
    cases = [(how, policy, fails_once) for how in HOWS for policy in POLICIES for fails_once in (True, False)]
    lists = [[BUILTIN[1], BUILTIN[3]]]
    for how, policy, fails_once in cases:
        marks = tmp_path / f"{how}-{policy}"
        marks.mkdir(exist_ok=True)
        lists.append(misbehaving(how, policy, str(marks / "failed") if fails_once else ""))

    alone, *told = train(framework_environment, tmp_path, loop, lists)

    for (how, policy, fails_once), outcome in zip(cases, told, strict=True):
        decisions = POLICIES[policy][0 if fails_once else 1]
        ended, case = decisions[-1] == "aborted", (how, policy, fails_once)
        assert outcome["faults"] == [["misbehaves", HOWS[how], decision] for decision in decisions], case
        assert (outcome["sha256"] == alone["sha256"]) != ended, case
        assert outcome["steps"] == (3 if ended else alone["steps"])
        assert ("as it was after 3 steps" in outcome["error"]) == ended, case
        assert outcome["left"] == 0, case
