"""One seed, one set of weights: isolated or trusted, with any number of workers, killed or not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def command(job, out, *flags):
    return [sys.executable, "-m", "ringfence", "train", str(job), "--quiet", "--out", str(out), *flags]


def train(job, out, *flags):
    done = subprocess.run(command(job, out, *flags), capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "run.json").read_text())


@pytest.fixture(scope="module")
def reference(job, tmp_path_factory):
    record = train(job, tmp_path_factory.mktemp("runs") / "reference")
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


@pytest.mark.parametrize(
    "flags",
    [
        ["--set", "plugins.augment.workers=4"],
        [
            flag
            for name in ("augment", "gradclip", "optim", "monitor")
            for flag in ("--set", f"plugins.{name}.isolation=trusted")
        ],
        ["--set", "checkpoint_every=7", "--set", "snapshot_every=3"],
    ],
    ids=["4-workers", "trusted", "other-checkpoints"],
)
def test_the_weights_do_not_depend_on_where_and_how_plugins_run(job, reference, tmp_path, flags):
    assert train(job, tmp_path / "run", *flags)["weights_sha256"] == reference["weights_sha256"]


def test_another_seed_gives_other_weights(job, reference, tmp_path):
    """The control: the comparison above can fail."""
    assert train(job, tmp_path / "run", "--set", "seed=6")["weights_sha256"] != reference["weights_sha256"]


def test_a_killed_run_leaves_no_process_and_resumes_to_the_same_weights(job, reference, tmp_path):
    out = tmp_path / "run"
    running = subprocess.Popen(command(job, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoints/step-*8")) and time.monotonic() < deadline:
        assert running.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    family = descendants(running.pid)
    assert len(family) >= 5
    running.send_signal(signal.SIGKILL)
    running.wait()
    time.sleep(1)
    assert [pid for pid in family if is_alive(pid)] == []
    assert resume(job, out)["weights_sha256"] == reference["weights_sha256"]
    steps = [
        line["step"]
        for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        if line["kind"] == "train"
    ]
    assert steps == sorted(set(steps))


def is_alive(pid):
    """Tell whether a process runs; one that ended and waits for init to collect it does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def resume(job, out):
    done = subprocess.run(
        [sys.executable, "-m", "ringfence", "train", str(job), "--quiet", "--resume", str(out)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((out / "run.json").read_text())


def descendants(pid):
    """Return all processes that descend from ``pid``."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def test_plugins_killed_in_the_middle_are_restarted_and_the_weights_stay_the_same(job, tmp_path):
    flags = ["--set", "steps=90", "--set", "snapshot_every=20", "--set", "checkpoint_every=90"]
    expected = train(job, tmp_path / "undisturbed", *flags)["weights_sha256"]
    out = tmp_path / "disturbed"
    running = subprocess.Popen(command(job, out, *flags), stdout=subprocess.DEVNULL)
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


def children(pid):
    """Return the processes whose parent is ``pid``."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def test_the_host_never_imports_a_builtin_plugin(job, tmp_path):
    script = (
        "import sys\n"
        "from ringfence.cli import main\n"
        "sys.argv = ['ringfence', *sys.argv[1:]]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print([name for name in sys.modules if name.startswith(('ringfence.builtin', 'albumentations'))])\n"
    )
    flags = command(job, tmp_path / "run", "--set", "steps=4")[3:]
    done = subprocess.run(
        [sys.executable, "-c", script, *flags],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
