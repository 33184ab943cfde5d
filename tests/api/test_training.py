"""``ringfence.train`` does what the command does, in a process that goes on afterwards."""

import _thread
import json
import os
import random
import re
import signal
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import ringfence
from ringfence.api.interruption import HeldSignals
from ringfence.api.process_state import TorchState
from ringfence.api.training import as_python

from .conftest import TRUSTED


def train(**keys):
    return ringfence.train(progress=False, **{**TRUSTED, **keys})


def world():
    """Return the state of this process that training could leave changed."""
    return {
        "handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "torch rng": torch.get_rng_state().tolist(),
        "python rng": random.getstate(),
        "numpy rng": repr(np.random.get_state()),  # noqa: NPY002 - the one that is shared
        "threads": torch.get_num_threads(),
        "modes": (
            torch.is_grad_enabled(),
            torch.get_deterministic_debug_mode(),
            torch.is_inference_mode_enabled(),
        ),
        "defaults": (torch.get_default_dtype(), torch.get_default_device()),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "filters": list(warnings.filters),
        "python threads": [thread.name for thread in threading.enumerate()],
        "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text(),
    }


def test_file_mapping_job_and_keywords_give_the_same_run(run, tmp_path):
    plugins = [*TRUSTED["plugins"], {"monitor": {"bins": 4}, "isolation": "trusted"}]
    job = ringfence.Job(**{**TRUSTED, "plugins": plugins})
    (tmp_path / "job.yaml").write_text(job.to_yaml().replace("steps: 6", "epochs: 7"))

    from_file = ringfence.train(tmp_path / "job.yaml", steps=6, out=tmp_path / "file", progress=False)
    from_job = ringfence.train(job, out=tmp_path / "job", progress=False)

    assert {run.weights_sha256, from_file.weights_sha256, from_job.weights_sha256} == {run.weights_sha256}
    assert run.status == "completed"
    assert run.job == from_job.job.model_copy(update={"base_folder": run.job.base_folder})


def test_the_process_is_left_as_it_was_and_the_job_sees_nothing_of_it(run, tmp_path):
    expected = train(out=tmp_path / "plain").weights_sha256
    torch.set_num_threads(2)
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float64)
    try:
        before = world()
        with torch.no_grad():
            found = train(out=tmp_path / "odd")
            assert not torch.is_grad_enabled()
        assert world() == before
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(1)
    assert found.weights_sha256 == expected


def test_without_what_keeps_the_state_it_would_be_another(monkeypatch, tmp_path):
    monkeypatch.setattr(TorchState, "keep", lambda _: None)
    torch.manual_seed(7)
    random.seed(7)
    before = world()

    train(out=tmp_path / "run")

    assert {name for name, value in world().items() if value != before[name]} >= {"torch rng", "python rng"}


def test_an_error_leaves_the_process_as_it_was_too():
    before = world()

    with pytest.raises(ringfence.JobError):
        train(model="cnm")
    with pytest.raises(ringfence.DataError):
        train(model="cnn", data={"name": "arrays", "path": "nothing.npz"})

    assert world() == before


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (
            {"model": "cnm"},
            "train(): model: 'cnm' is unknown; did you mean 'cnn'? (your own: module:function)",
        ),
        ({"stepz": 3}, "train(): stepz: unknown key; did you mean 'steps'?"),
        ({"batch_size": "32"}, "train(): batch_size: expected a whole number, got the text '32'"),
        ({"data": {"name": "mnist10k", "limit": 0}}, "train(): data.limit: 0 is out of range"),
        (
            {"plugins": [{"optim": {"algorithm": "adamw", "lrr": 1}, "isolation": "trusted"}]},
            "train(): plugins[0].optim.lrr: unknown option; did you mean 'lr'?",
        ),
        ({"schedule": {"name": "step", "every": {1}}}, "train(): schedule.every: is a set; a job holds text"),
        ({"seed": float("nan")}, "train(): seed: is NaN; write a number"),
    ],
)
def test_an_error_names_the_key(keys, told):
    with pytest.raises(ringfence.JobError) as raised:
        train(**keys)

    assert str(raised.value).startswith(told)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"fast_dev_run": True, "overfit": 4}, "fast_dev_run=True and overfit are both given"),
        ({"overfit": 0}, "overfit=0: it takes at least one sample"),
        ({"overfit": 4, "resume": True, "out": "run"}, "overfit and resume=True, both given, do not go"),
        ({"overfit": 10**6}, "overfit=1000000: there are 230 training samples"),
    ],
)
def test_ways_to_try_a_job_that_do_not_go_together_are_told_as_arguments(how, told):
    with pytest.raises(ringfence.JobError, match=re.escape(told)):
        train(**how)


def test_a_job_is_tried_out_with_one_step_or_a_few_samples(tmp_path, capsys):
    fast = ringfence.train(TRUSTED, out=tmp_path / "fast", fast_dev_run=True, macs=True)
    few = train(out=tmp_path / "few", overfit=8)

    assert fast.status == few.status == "completed"
    assert [read(run)["reduction"]["kind"] for run in (fast, few)] == ["fast_dev_run", "overfit"]
    assert " MACs a sample" in "".join(capsys.readouterr())


def read(run):
    return json.loads((run.folder / "run.json").read_text())


def test_all_faults_are_told_at_once():
    with pytest.raises(ringfence.JobError) as raised:
        train(batch_size=0, seed=-1)

    assert [line.partition(": ")[2].partition(":")[0] for line in str(raised.value).splitlines()] == [
        "batch_size",
        "seed",
    ]


def test_what_no_program_can_pass_is_refused_as_it_would_be_in_a_file():
    with pytest.raises(ringfence.JobError, match=r"Job\(\): data: is missing"):
        ringfence.Job(model="cnn", epochs=1)
    with pytest.raises(ringfence.JobError, match="say with out"):
        ringfence.train(resume=True)
    with pytest.raises(ringfence.JobError, match="name a job file"):
        ringfence.train()


def test_a_folder_that_holds_a_run_is_refused_in_the_words_of_a_program(run):
    with pytest.raises(ringfence.JobError) as raised:
        train(out=run.folder)

    assert str(raised.value).startswith(
        f"out {run.folder}: the folder is not empty; choose another, or continue"
    )
    assert str(raised.value).endswith(f"with resume=True, out={run.folder}")


def test_a_run_with_nothing_to_do_says_what_would_be(run, capsys):
    again = ringfence.train(out=run.folder, resume=True)

    assert again.weights_sha256 == run.weights_sha256
    assert f"ringfence.train(out='{run.folder}', resume=True, steps=12)" in capsys.readouterr().out


def test_messages_about_flags_become_those_about_arguments():
    assert as_python("go on: ringfence train --resume runs/a --set steps=8") == (
        "go on: ringfence.train(out='runs/a', resume=True, steps=8)"
    )
    assert as_python("pass --accept plugins, or --set seed=1") == "pass accept=['plugins'], or seed=1"


def test_an_observer_is_told_what_happens(tmp_path):
    class Steps(ringfence.Observer):
        seen = ()

        def started(self, info):
            self.seen = (info.steps_total,)

        def step(self, step, loss, samples):
            self.seen = (*self.seen, step.global_step)

    steps = Steps()
    train(out=tmp_path / "run", observers=[steps], steps=3)

    assert steps.seen == (3, 0, 1, 2)


def test_a_run_shows_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    run = ringfence.train(out=tmp_path / "run", **TRUSTED)

    told = capsys.readouterr().out
    assert "step 6/6" in told
    assert "\x1b" not in told
    assert told.splitlines()[-1] == f"report  {run.folder}/report.html"


# from a thread


def test_it_trains_in_another_thread_and_leaves_signals_alone(run, tmp_path):
    found, handlers = [], []

    class Look(ringfence.Observer):
        def step(self, step, loss, samples):
            handlers.append(signal.getsignal(signal.SIGINT))

    def work():
        found.append(train(out=tmp_path / "run", observers=[Look()]))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=120)

    assert found[0].status == "completed"
    assert set(handlers) == {before}


# the user ends it


class Interrupt(ringfence.Observer):
    """Does something at a step, as a user would."""

    def __init__(self, act, at=2):
        self.act, self.at = act, at

    def step(self, step, loss, samples):
        if step.global_step == self.at:
            self.act()


def test_ctrl_c_checkpoints_then_raises_and_the_run_goes_on_to_the_same_weights(tmp_path, capsys):
    whole = train(out=tmp_path / "whole")
    folder = tmp_path / "run"

    with pytest.raises(KeyboardInterrupt):
        ringfence.train(out=folder, observers=[Interrupt(_thread.interrupt_main)], **TRUSTED)

    told = capsys.readouterr()
    stopped = ringfence.open_run(folder)
    assert (stopped.status, max(stopped.checkpoints)) == ("interrupted", 3)
    assert f"continue with: ringfence.train(out='{folder}', resume=True)" in told.out
    assert "stopping after this step, with a checkpoint" in told.err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert ringfence.train(out=folder, resume=True, progress=False).weights_sha256 == whole.weights_sha256


def test_ctrl_c_before_the_first_step_leaves_nothing(tmp_path):
    class AtOnce(ringfence.Observer):
        def plugins_started(self, plugins, order):
            _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        train(out=tmp_path / "run", observers=[AtOnce()])

    assert not (tmp_path / "run").exists()


def test_a_handler_of_the_programs_own_is_called_once_the_run_has_its_checkpoint(tmp_path, monkeypatch):
    seen = []
    before = signal.signal(
        signal.SIGTERM, lambda number, frame: seen.append(sorted((tmp_path / "run").glob("*/step*")))
    )
    try:
        run = train(
            out=tmp_path / "run", observers=[Interrupt(lambda: signal.raise_signal(signal.SIGTERM))], steps=50
        )
    finally:
        signal.signal(signal.SIGTERM, before)

    assert run.status == "interrupted"
    assert [path.name for path in seen[0]][-1] == "step-00000003"


def test_a_second_signal_raises_at_once():
    held = HeldSignals()
    held.starting()
    try:
        signal.raise_signal(signal.SIGINT)
        assert held.request.is_made()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        held.release()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    held = HeldSignals()
    try:
        held.starting()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        held.release()
        signal.signal(signal.SIGHUP, before)
