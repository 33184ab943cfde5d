"""One seed, one set of weights: isolated or trusted, with any number of workers, killed or not."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..watching import children, is_running

JOB = """\
model: {name: cnn, width: 8}
data: {name: mnist10k, limit: 512}
steps: 24
batch_size: 32
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


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    path = tmp_path_factory.mktemp("job") / "job.yaml"
    path.write_text(JOB)
    return path


#: Runs that are compared, by the flags that they differ in.
RUNS = {
    "reference": [],
    "4-workers": ["--set", "plugins.augment.workers=4"],
    "trusted": [
        flag
        for name in ("augment", "gradclip", "optim", "monitor")
        for flag in ("--set", f"plugins.{name}.isolation=trusted")
    ],
    "other-checkpoints": ["--set", "checkpoint_every=7", "--set", "snapshot_every=3"],
    "another-seed": ["--set", "seed=6"],
    "longer": ["--set", "steps=90", "--set", "snapshot_every=20", "--set", "checkpoint_every=90"],
}
#: The command, which at its end prints what it has imported of plugins.
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


def command(job, out, *flags):
    return [sys.executable, "-m", "ringfence", "train", str(job), "--quiet", "--out", str(out), *flags]


def train(job, out, *flags):
    """Run to the end; returns the record, with what the command printed as ``printed``."""
    run = [sys.executable, "-c", HOST, *command(job, out, *flags)[3:]]
    done = subprocess.run(run, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "run.json").read_text()) | {"printed": done.stdout.splitlines()}


@pytest.fixture(scope="module")
def runs(job, tmp_path_factory):
    """Make the runs that are compared, two at a time; returns how to wait for the record of one."""
    folder = tmp_path_factory.mktemp("runs")
    with ThreadPoolExecutor(2) as threads:
        found = {name: threads.submit(train, job, folder / name, *flags) for name, flags in RUNS.items()}
        yield lambda name: found[name].result(170)
        threads.shutdown(cancel_futures=True)


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


def test_a_killed_run_leaves_no_process_and_resumes_elsewhere_to_the_same_weights(job, reference, tmp_path):
    """From one worker to four, then to two with all other plugins in the trainer's process."""
    out = tmp_path / "run"
    running = subprocess.Popen(command(job, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoints/step-*8")) and time.monotonic() < deadline:
        assert running.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    family = children(running.pid, recursive=True)
    assert len(family) >= 5
    running.send_signal(signal.SIGKILL)
    running.wait()
    time.sleep(1)
    assert [pid for pid in family if is_running(pid)] == []
    assert resume(job, out, "plugins.augment.workers=4", "steps=20", "checkpoint_every=7")["steps"] == 20
    trusted = [f"plugins.{name}.isolation=trusted" for name in ("gradclip", "optim", "monitor")]
    end = resume(job, out, "plugins.augment.workers=2", *trusted)
    assert {plugin["name"] for plugin in end["plugins"] if plugin["isolation"] == "sandbox"} == {"augment"}
    assert end["weights_sha256"] == reference["weights_sha256"]
    steps = [
        line["step"]
        for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        if line["kind"] == "train"
    ]
    assert steps == sorted(set(steps))


def resume(job, out, *sets):
    flags = [flag for text in sets for flag in ("--set", text)]
    done = subprocess.run(
        [sys.executable, "-m", "ringfence", "train", str(job), "--quiet", "--resume", str(out), *flags],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((out / "run.json").read_text())


def test_plugins_killed_in_the_middle_are_restarted_and_the_weights_stay_the_same(job, runs, tmp_path):
    expected = runs("longer")["weights_sha256"]
    out = tmp_path / "disturbed"
    running = subprocess.Popen(command(job, out, *RUNS["longer"]), stdout=subprocess.DEVNULL)
    for victim, step in enumerate([10, 35, 60]):
        wait_for_step(running, out, step)
        [zygote] = children(running.pid)
        # In the order of the job: augment, gradclip, optim, monitor; a restarted one comes last.
        os.kill(sorted(children(zygote))[0 if victim else 2], signal.SIGKILL)
    assert running.wait(timeout=120) == 0
    record = json.loads((out / "run.json").read_text())
    restarts = {plugin["name"]: plugin["restarts"] for plugin in record["plugins"]}
    assert sum(restarts.values()) >= 2, restarts
    assert record["weights_sha256"] == expected


def wait_for_step(running, out, step):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert running.poll() is None, "the run ended before it could be disturbed"
        metrics = out / "metrics.jsonl"
        if metrics.exists() and f'"step":{step},' in metrics.read_text():
            return
        time.sleep(0.002)
    raise TimeoutError(step)


def test_the_host_never_imports_a_builtin_plugin_in_a_sandbox(runs, reference):
    assert reference["printed"][-1] == "[]"
    assert "ringfence.builtin.augment" in runs("trusted")["printed"][-1]
