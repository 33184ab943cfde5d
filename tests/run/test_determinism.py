"""One seed, one set of weights: isolated or trusted, with any number of workers, killed or not."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ringfence.isolation.sandbox import Sandbox
from ringfence.job.job_file import read_job
from ringfence.plugins.observer import Observer
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare

from ..watching import is_running, until

pytestmark = pytest.mark.room

JOB = """\
model: {name: cnn, width: 8}
data: {name: mnist10k, limit: 256}
steps: 24
batch_size: 16
seed: 5
checkpoint_every: 4
threads: 2
plugins:
  - augment: {ops: [{affine: {degrees: 10}}, {mixup: {alpha: 0.4, p: 0.5}}, {cutout: {p: 0.5}}]}
  - gradclip: {max_norm: 1.0}
  - optim: {algorithm: lamb, lr: 0.01, weight_decay: 0.01}
  - monitor:
    every: 6
"""


TRUSTED = [f"plugins.{name}.isolation=trusted" for name in ("augment", "gradclip", "optim", "monitor")]
#: Runs that are compared, by what they differ in.
RUNS = {
    "4-workers": ["plugins.augment.workers=4"],
    "other-checkpoints": ["checkpoint_every=7", "snapshot_every=3"],
    "another-seed": ["seed=6"],
    "longer": ["steps=48", "snapshot_every=20", "checkpoint_every=48"],
}
#: And those that the command makes, which at its end prints what it has imported of plugins.
COMMANDS = {"reference": [], "trusted": TRUSTED}
HOST = """
import sys
from ringfence.cli.app import main
sys.argv[0] = "ringfence"
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print([name for name in sys.modules if name.startswith(('ringfence.builtin', 'albumentations'))])
"""
#: A run that kills itself after its ninth step, when it has said which processes it has.
KILLED = """
import os, signal, sys
from pathlib import Path
from ringfence.job.job_file import read_job
from ringfence.plugins.observer import Observer
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare

class Killed(Observer):
    def plugins_started(self, plugins, order):
        workers = [worker for plugin in plugins for worker in plugin._workers]
        [zygote] = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        print(zygote, *(worker.channel.process.pid for worker in workers), flush=True)

    def step(self, step, loss, samples):
        if step.global_step == 8:
            os.kill(os.getpid(), signal.SIGKILL)

job, out = map(Path, sys.argv[1:])
execute(prepare(read_job(job), job.parent), out, RunOptions(observers=[Killed()]))
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    path = tmp_path_factory.mktemp("job") / "job.yaml"
    path.write_text(JOB)
    return path


def command(job, out, *sets):
    """Run the command to the end; returns the record, with what it printed as ``printed``."""
    flags = [flag for text in sets for flag in ("--set", text)]
    done = subprocess.run(
        [sys.executable, "-c", HOST, "train", str(job), "--quiet", "--out", str(out), *flags],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((out / "run.json").read_text()) | {"printed": done.stdout.splitlines()}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as running:
        yield running


@pytest.fixture(scope="module")
def train(job, sandbox):
    """Return a function that makes a run in this process and returns its record; all share a sandbox."""
    threads = torch.get_num_threads()

    def train(out, *sets, **how):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ringfence.run.plugin_sandbox.Sandbox", lambda **_: contextlib.nullcontext(sandbox))
            execute(prepare(read_job(job, sets), job.parent), out, RunOptions(report=False, **how))
        return json.loads((out / "run.json").read_text())

    yield train
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def runs(job, train, tmp_path_factory):
    """Return how to get the record of one of the runs that are compared."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    with ThreadPoolExecutor(1) as thread:
        begun = {name: thread.submit(command, job, folder / name, *sets) for name, sets in COMMANDS.items()}

        def record(name):
            if name in begun:
                return begun[name].result(170)
            if name not in found:
                found[name] = train(folder / name, *RUNS[name])
            return found[name]

        yield record
        thread.shutdown(cancel_futures=True)


@pytest.fixture
def reference(runs):
    record = runs("reference")
    assert {plugin["isolation"] for plugin in record["plugins"]} == {"sandbox"}
    return record


def test_a_run_records_what_it_did(reference):
    assert reference["status"] == "completed"
    assert reference["steps"] == 24
    assert len(reference["weights_sha256"]) == 64
    assert [plugin["name"] for plugin in reference["plugins"]] == ["augment", "gradclip", "optim", "monitor"]
    for plugin in reference["plugins"]:
        assert {"fds", "environment", "rlimits", "privileges", "landlock", "seccomp"} <= set(plugin["layers"])
        assert 0 < plugin["peak_bytes"] <= plugin["budget_bytes"]
        assert plugin["calls"] > 0
        assert plugin["restarts"] == 0


@pytest.mark.parametrize("name", ["4-workers", "trusted", "other-checkpoints"])
def test_the_weights_do_not_depend_on_where_and_how_plugins_run(runs, reference, name):
    assert runs(name)["weights_sha256"] == reference["weights_sha256"]


def test_another_seed_gives_other_weights(runs, reference):
    """The control: the comparison above can fail."""
    assert runs("another-seed")["weights_sha256"] != reference["weights_sha256"]


def test_a_killed_run_leaves_no_process_and_resumes_elsewhere_to_the_same_weights(
    job, train, reference, tmp_path
):
    """From one worker to four, then to two with all other plugins in the trainer's process."""
    out = tmp_path / "run"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(job), str(out)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    family = [int(pid) for pid in killed.stdout.split()]
    assert len(family) >= 5
    assert until(lambda: not any(map(is_running, family)))
    assert (out / "checkpoints/step-00000008").is_dir()
    elsewhere = ("plugins.augment.workers=4", "steps=20", "checkpoint_every=7")
    assert train(out, *elsewhere, resume=True)["steps"] == 20
    end = train(out, "plugins.augment.workers=2", *TRUSTED[1:], resume=True)
    assert {plugin["name"] for plugin in end["plugins"] if plugin["isolation"] == "sandbox"} == {"augment"}
    assert end["weights_sha256"] == reference["weights_sha256"]
    steps = [
        line["step"]
        for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        if line["kind"] == "train"
    ]
    assert steps == sorted(set(steps))


class Killer(Observer):
    """Kills the worker of one plugin after another, each after its step."""

    def __init__(self, **victims):
        self._victims = {step: name for name, step in victims.items()}
        self._plugins = {}

    def plugins_started(self, plugins, order):
        self._plugins = {plugin.spec.name: plugin for plugin in plugins}

    def step(self, step, loss, samples):
        if name := self._victims.pop(step.global_step, None):
            process = self._plugins[name]._workers[0].channel.process
            os.kill(process.pid, signal.SIGKILL)
            assert until(process.has_ended)


def test_plugins_killed_in_the_middle_are_restarted_and_the_weights_stay_the_same(train, runs, tmp_path):
    killer = Killer(optim=10, augment=25, gradclip=41)
    record = train(tmp_path / "disturbed", *RUNS["longer"], observers=[killer])
    restarts = {plugin["name"]: plugin["restarts"] for plugin in record["plugins"]}
    assert restarts == {"augment": 1, "gradclip": 1, "optim": 1, "monitor": 0}
    assert record["weights_sha256"] == runs("longer")["weights_sha256"]


def test_the_host_never_imports_a_builtin_plugin_in_a_sandbox(runs, reference):
    assert reference["printed"][-1] == "[]"
    assert "ringfence.builtin.augment" in runs("trusted")["printed"][-1]
