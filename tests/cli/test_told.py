"""What a user is told of wrong options, of a plugin that raises, and of a resume that makes no sense."""

import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from ringfence.cli.app import exit_on_error
from ringfence.hooks.errors import PluginRaisedError, RunAbortedError
from ringfence.plugins.plugin_frames import own_frames

from .conftest import SMALL_JOB, TRUSTED_JOB

TRACEBACK = f"""Traceback (most recent call last):
  File "{sys.modules["ringfence"].__path__[0]}/isolation/worker/serve.py", line 243, in _call
    result = getattr(self._plugin, call.method)(**given)
  File "/site/acme/plugin.py", line 7, in backward
    return helper(gradients)
  File "/site/acme/plugin.py", line 3, in helper
    raise ValueError("no")
ValueError: no
"""


@pytest.mark.parametrize("isolation", ["", "    isolation: trusted\n"])
def test_options_that_the_plugin_itself_refuses_are_told_with_their_place(ringfence, job, isolation):
    text = SMALL_JOB.replace(
        "plugins:\n", f"plugins:\n  - augment: {{ops: [{{mixup: {{alpha: -1}}}}]}}\n{isolation}"
    )
    done = ringfence("train", job(text), "--out", "run")

    assert done.status == 2
    quoted = "plugin 'augment' says: mixup: alpha is -1; "
    assert done.err.startswith(f"error: job.yaml:7:21: plugins[0].augment.ops[0]: {quoted}")
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) == 1


def test_an_unknown_algorithm_is_told_with_its_place(ringfence, job):
    done = ringfence("train", job(TRUSTED_JOB.replace("adamw", "sdg")), "--out", "run")

    assert done.status == 2
    assert done.err.startswith("error: job.yaml:7:")
    assert "plugins[0].optim: plugin 'optim' says: there is no algorithm 'sdg'" in done.err


@pytest.mark.parametrize(
    "flags", [("plugins.optim.algorithm=sdg",), ("seed=3", "plugins.optim.algorithm=sdg")]
)
def test_an_option_that_a_flag_has_changed_is_told_with_the_flag(ringfence, job, flags):
    given = [part for flag in flags for part in ("--set", flag)]
    done = ringfence("train", job(TRUSTED_JOB), *given, "--out", "run")

    assert done.status == 2
    told = "error: job.yaml:7:12, changed by --set plugins.optim.algorithm=sdg: plugins[0].optim: plugin "
    assert done.err.startswith(told)


def test_a_place_in_a_list_that_a_flag_has_changed_is_told_with_the_flag(ringfence, job):
    text = TRUSTED_JOB.replace(
        "plugins:\n", "plugins:\n  - augment: {ops: [{affine: {p: 0.1}}]}\n    isolation: trusted\n"
    )
    flag = "plugins.augment.ops.0.affine.p=2"
    done = ringfence("train", job(text), "--set", flag, "--out", "run")

    assert f"error: job.yaml:7:21, changed by --set {flag}: plugins[0].augment.ops[0]: plugin " in done.err


@pytest.mark.room
@pytest.mark.parametrize(
    ("flag", "where"),
    [
        ("plugins.optim.memory_fraction=0.0001", "plugins[0].memory_fraction"),
        ("memory_fraction=0.0001", "memory_fraction"),
    ],
)
def test_a_share_of_memory_that_is_too_small_is_told_where_it_is_written(ringfence, job, flag, where):
    text = SMALL_JOB + "  - gradclip: {max_norm: 1}\n"
    done = ringfence("train", job(text), "--set", flag, "--out", "run")

    assert done.status == 2
    assert done.err.startswith(
        f"error: --set {flag}: {where}: 0.0001 of this machine's memory gives each worker"
    )
    least = float(re.search(r"torch needs \d+ to start; write (\S+) or more\n", done.err)[1])
    assert 0.0001 < least <= 0.15
    assert "trusted" not in done.err
    assert not Path("run").exists()


def test_frames_of_ringfence_before_the_plugins_are_left_out():
    kept = own_frames(TRACEBACK.splitlines())

    assert kept[:2] == [
        "Traceback (most recent call last):",
        '  File "/site/acme/plugin.py", line 7, in backward',
    ]
    assert kept[-1] == "ValueError: no"
    assert not [line for line in kept if "worker.py" in line or "getattr" in line]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_plugin_that_raises_is_told_with_its_own_traceback(capsys, wrapped):
    fault = PluginRaisedError("raised ValueError: no", plugin="acme", remote_traceback=TRACEBACK + "\x1b[2J")

    def fail():
        with exit_on_error():
            if wrapped:
                raise RunAbortedError("it ended") from fault
            raise fault

    with pytest.raises(SystemExit):
        fail()

    told = capsys.readouterr().err.splitlines()
    assert '      File "/site/acme/plugin.py", line 3, in helper' in told
    assert all(line.startswith("    ") for line in told[1:])
    assert "\x1b" not in "".join(told)


def test_a_resume_to_fewer_steps_than_done_is_refused(ringfence, job):
    name = job(TRUSTED_JOB)
    assert ringfence("train", name, "--out", "run").status == 0

    done = ringfence("train", "--resume", "run", "--set", "steps=3")

    assert done.status == 2
    assert "--resume run: the run has taken 6 steps already, and the job asks for 3" in done.err


@pytest.mark.parametrize(
    ("flags", "right"),
    [
        (("--set", "optim.lr=0.1"), "write --set plugins.optim.lr=0.1"),
        (("--set", "optim.lr"), "write for example epochs=3 or plugins.optim.lr=0.01"),
        (
            ("--set", "epochs", "2"),
            "error: --set epochs 2: key and value are one word; write --set epochs=2\n",
        ),
        (("--set", "epochs", "=", "2"), "write --set epochs=2\n"),
        (("--set", "epochs=", "2", "--quiet"), "write --set epochs=2\n"),
        (("--set", "epochs:", "2"), "write --set epochs=2\n"),
        (("--set", "model", "{name: cnn}"), "write --set 'model={name: cnn}'\n"),
        (("--set", "epochs", "--quiet"), "write for example epochs=3 or plugins.optim.lr=0.01"),
        (("--set", "epochs=x", "job.yaml"), "unexpected extra argument"),
        (("--plugin", "optim:lr"), "write for example --plugin optim:lr=VALUE"),
    ],
)
def test_a_flag_of_a_wrong_form_is_told_with_the_right_one(ringfence, job, flags, right):
    done = ringfence("train", job(), *flags)

    assert done.status == 2
    assert right in done.err


@pytest.mark.parametrize("debug", [False, True])
def test_a_disabled_plugin_is_named_even_when_quiet_and_traced_to_who_debugs(
    ringfence, job, tmp_path, monkeypatch, debug
):
    (tmp_path / "acme.py").write_text(
        "from ringfence import passthrough\n"
        "class Plugin:\n"
        "    role = 'monitor'\n"
        "    backward = passthrough\n"
        "    def forward(self, loss, step):\n"
        "        raise ValueError('no\\x1b[2J')\n"
    )
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: acme\nVersion: 1.0\nRequires-Dist: ringfence>=0.1\n")
    (info / "entry_points.txt").write_text("[ringfence.plugins]\nacme = acme:Plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    done = ringfence(
        "train",
        job(TRUSTED_JOB + "  - acme\n    isolation: trusted\n".replace("acme", "acme: {}")),
        "--quiet",
        *(["--debug"] if debug else []),
    )

    assert done.status == 0, done.err
    assert "plugin 'acme' failed and was disabled" in done.out
    assert (
        done.err.startswith("traceback of plugin 'acme':\n    Traceback (most recent call last):\n") == debug
    )
    assert done.err.endswith("\n    ValueError: no\\x1b[2J\n") == debug
    assert done.err.count("Traceback") == debug


def test_a_check_of_a_plugin_that_cannot_be_imported_tells_why_and_where(ringfence, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(
        "from ringfence import passthrough\n"
        "class Plugin:\n"
        "    role = 'gradient'\n"
        "    forward = passthrough\n"
        "    def backward(self, step): ...\n"
        "1 / 0\n"
    )
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: broken\nVersion: 1.0\nRequires-Dist: ringfence>=0.1\n")
    (info / "entry_points.txt").write_text("[ringfence.plugins]\nbroken = broken:Plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    done = ringfence("plugins", "check", "broken")

    assert done.status == 2
    assert done.err == ""
    (told,) = [line for line in done.out.splitlines() if line.startswith("  E-LOAD ")]
    assert "broken.py:6  could not be loaded: ZeroDivisionError: division by zero (" in told


BROKEN = """\
from torch import nn

class Net(nn.Sequential):
    def __init__(self, channels, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(784, num_classes))
        self.steps = 0

    def forward(self, inputs):
        self.steps += self.training
        if self.steps == 4:
            raise ValueError("no\x1b[2J")
        return super().forward(inputs)
"""


@pytest.mark.parametrize("debug", [False, True])
def test_a_model_that_raises_in_mid_run_is_told_with_its_line_and_how_to_go_on(
    ringfence, job, tmp_path, monkeypatch, debug
):
    (tmp_path / "breaking.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "breaking", raising=False)
    name = job(TRUSTED_JOB.replace("{name: mlp, hidden: [8]}", '"breaking:Net"') + "snapshot_every: 1\n")

    done = ringfence("train", name, "--out", "run", *(["--debug"] if debug else []))

    assert done.status == 3
    assert done.out.endswith("report  run/report.html\ncontinue with: ringfence train --resume run\n")
    assert (tmp_path / "run/report.html").exists()
    steps = re.search(r"error: the run failed at step (\d): ValueError: no\\x1b\[2J\. ", done.err)[1]
    assert f"Its state after {steps} steps is in {tmp_path}/run/checkpoints/step-0000000{steps}; " in done.err
    assert f"go on with `--resume {tmp_path}/run`\n" in done.err
    assert f'    {tmp_path}/breaking.py:11, in Net.forward: raise ValueError("no' in done.err
    assert "\x1b" not in done.err
    assert ("Traceback" in done.err) is debug
    assert ("in take_step" in done.err) is debug
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "aborted"
    assert "breaking.py:11, in Net.forward" in record["error"]


def test_what_a_run_that_has_diverged_is_advised_to_do_is_taken(ringfence, job, tmp_path):
    text = TRUSTED_JOB.replace("{algorithm: adamw, lr: 1e-3}", "{algorithm: sgd, lr: 1e+30}")
    done = ringfence("train", job(text), "--out", "run")

    assert done.status == 3
    advised = re.search(r"training has diverged, .*; start anew with another job, or .* `(.*)`\n", done.err)[
        1
    ]
    assert advised == f"--resume {tmp_path}/run --set plugins.optim.lr=1e+29 --accept plugins.optim.lr"
    again = ringfence("train", *shlex.split(advised))
    assert "accepted: plugins.optim.lr: 1e+30 in the checkpoint, 1e+29 in this job" in again.out


def test_a_resume_that_is_refused_names_no_report_of_before(ringfence, job):
    ringfence("train", job(TRUSTED_JOB), "--out", "run")
    done = ringfence("train", "--resume", "run", "--set", "batch_size=16")
    assert done.status == 2
    assert "report" not in done.out


def test_an_interrupted_run_tells_of_which_step_its_metrics_are(ringfence, job, tmp_path, monkeypatch):
    stopping = BROKEN.replace('raise ValueError("no\x1b[2J")', "os.kill(os.getpid(), signal.SIGINT)")
    (tmp_path / "stopping.py").write_text("import os, signal\n" + stopping)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "stopping", raising=False)
    text = TRUSTED_JOB.replace("{name: mlp, hidden: [8]}", '"stopping:Net"').replace("steps: 6", "steps: 60")

    done = ringfence("train", job(text + "eval_every: 3\nstop_within_s: 60\n"), "--out", "run")

    assert done.status == 130
    found = re.search(r"interrupted after (\d+) steps  at step (\d+): validation loss \d", done.out)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert int(found[1]) == record["steps"] == record["final_metrics_step"] + 1
    assert int(found[2]) == record["final_metrics_step"]


def test_a_fault_of_ours_in_mid_run_keeps_its_traceback(ringfence, job, monkeypatch):
    ours = eval("lambda *_: 1 / 0", {"__name__": "ringfence.engine"})  # noqa: S307 - as if it were there
    monkeypatch.setattr(importlib.import_module("ringfence.engine.train"), "take_step", ours)

    done = ringfence("train", job(TRUSTED_JOB), "--out", "run")

    assert done.status == 3
    assert "in _one_step" in done.err
    assert (
        "error: the run failed at step 0: ZeroDivisionError: division by zero. Its state after 0" in done.err
    )


@pytest.mark.parametrize(
    "command", [("report", "none"), ("plugins", "show", "none"), ("train", "none.yaml"), ("plugins", "new")]
)
def test_every_command_shows_with_debug_where_an_error_came_from(ringfence, job, command):
    job()
    told, shown = ringfence(*command), ringfence(*command, "--debug")

    assert told.status == shown.status == 2
    assert shown.err.startswith("Traceback")
    assert shown.err.endswith(told.err)
    assert "Traceback" not in told.err
