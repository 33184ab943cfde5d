"""``ringfence train`` from job to folder, in sandboxes."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ringfence.hooks.errors import CutOffError
from ringfence.job.job_file import read_job
from ringfence.version import __version__

from .conftest import SMALL_JOB, TRUSTED_JOB, Done, start

ALL_FOUR = (
    SMALL_JOB
    + """\
  - augment: {ops: [{affine: {degrees: 10, p: 0.5}}]}
    workers: 2
  - gradclip: {max_norm: 1.0}
  - monitor: {bins: 8}
    every: 2
"""
)


@pytest.fixture(scope="module")
def all_four(tmp_path_factory):
    """Run the job with all builtin plugins once, as a process; returns its folder and what it printed."""
    folder = tmp_path_factory.mktemp("all-four")
    (folder / "job.yaml").write_text(ALL_FOUR)
    script = (
        "import sys; from ringfence.cli.app import main\n"
        "sys.argv = ['ringfence', 'train', 'job.yaml']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not [name for name in sys.modules if name.startswith('ringfence.builtin')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120, cwd=folder
    )
    return folder, Done(done.returncode, done.stdout, done.stderr)


def _end_at_once(*_):
    raise CutOffError("the run")


@pytest.mark.parametrize(
    ("text", "flags", "zygotes"),
    [
        (SMALL_JOB, (), 1),
        (TRUSTED_JOB, (), 0),
        (SMALL_JOB.replace("steps", "stepps"), (), 0),
        (SMALL_JOB, ("--set", "steps=none"), 0),
        (SMALL_JOB, ("--resume", "nowhere"), 0),
    ],
)
def test_a_process_to_fork_from_is_started_for_a_job_that_can_be_read_and_has_a_sandboxed_plugin_alone(
    ringfence, job, monkeypatch, text, flags, zygotes
):
    started = []

    def note(**settings):
        started.append(settings)
        raise OSError("none is needed here")

    monkeypatch.setattr("ringfence.isolation.host.processes.zygote_process.start_process", note)
    monkeypatch.setattr("ringfence.api.launched_run.run_launched", _end_at_once)
    done = ringfence("train", job(text), *flags)
    is_read = started or text == TRUSTED_JOB
    assert (done.status, len(started)) == (CutOffError.exit_status if is_read else 2, zygotes)


def test_garbage_is_looked_for_once_all_is_imported_and_never_among_that(ringfence, job, monkeypatch):
    seen = []

    def note(*_):
        seen.append(gc.isenabled())
        _end_at_once()

    monkeypatch.setattr("ringfence.api.launched_run.run_launched", note)
    gc.disable()
    try:
        assert ringfence("train", job(TRUSTED_JOB)).status == CutOffError.exit_status
        assert (seen, gc.get_freeze_count() > 0) == ([True], True)
    finally:
        gc.unfreeze()
        gc.enable()
    ringfence("train", job(TRUSTED_JOB))
    assert gc.get_freeze_count() == 0, "a process of another kind keeps to its own ways"


def record(folder="runs/job-1"):
    return json.loads((Path(folder) / "run.json").read_text())


def test_run_leaves_a_whole_folder(all_four):
    place, done = all_four
    assert done.status == 0, done.err
    folder = place / "runs/job-1"
    assert {path.name for path in folder.iterdir()} >= {
        "checkpoints",
        "job.yaml",
        "metrics.jsonl",
        "report.html",
        "run.json",
        "tensorboard",
    }
    run = record(folder)
    assert run["status"] == "completed"
    assert run["steps"] == 6
    assert set(run["final_metrics"]) == {"loss", "accuracy"}
    assert len(run["weights_sha256"]) == 64
    assert run["weights_sha256"][:16] in done.out
    assert (folder / run["checkpoint"]).is_dir()
    assert run["hooks"]["augment_forward"] == ["augment"]


def test_what_is_shown_of_the_data_is_in_the_record_and_on_the_page(ringfence, job, tmp_path):
    np.savez(tmp_path / "d.npz", inputs=np.ones((32, 4), dtype="float32"), targets=[1, 2] * 16)
    small = "model: {name: mlp, hidden: [8]}\ndata: {name: arrays, path: d.npz}\nsteps: 2\nbatch_size: 8\n"
    done = ringfence(
        "train", job(small + "plugins: [{optim: {algorithm: sgd, lr: 0.1}, isolation: trusted}]\n")
    )
    assert done.status == 0, done.err
    notes = record()["data_notes"]
    assert notes[0].startswith("3 of 26 training samples are held out for validation; to hold out none, ")
    assert notes[1] == "3 classes"
    assert notes[2].endswith("Do your targets start at 1? Classes start at 0: subtract 1")
    page = (tmp_path / "runs/job-1/report.html").read_text()
    assert all(f"{note}\n" in done.out and note in page for note in notes)


def test_record_tells_what_each_plugin_cost(all_four):
    place, _ = all_four
    plugins = {plugin["name"]: plugin for plugin in record(place / "runs/job-1")["plugins"]}
    assert list(plugins) == ["optim", "augment", "gradclip", "monitor"]
    # None where another supervisor has the kernel's only listener.
    assert all(plugin["attempts"] in ({}, None) for plugin in plugins.values())
    assert not any(plugin["attempts_at_least"] for plugin in plugins.values())
    for plugin in plugins.values():
        assert plugin["isolation"] == "sandbox"
        assert {"landlock", "seccomp"} <= set(plugin["layers"])
        assert 0 < plugin["peak_bytes"] <= plugin["budget_bytes"]
        assert plugin["seconds"] > 0
        assert plugin["state"] == "closed"
        assert plugin["restarts"] == 0
    assert plugins["optim"]["calls"] == 6
    assert plugins["optim"]["role"] == "optimizer"
    assert plugins["augment"]["workers"] == 2


def test_host_imports_no_plugin(all_four):
    """The run itself looks at what was imported, and fails."""
    _, done = all_four
    assert done.status == 0, done.err
    assert "completed after 6 steps" in done.out


def test_every_key_of_the_record_is_documented(job, ringfence):
    ringfence("train", job(TRUSTED_JOB))
    page = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text()
    run = record()
    assert [key for key in [*run, *run["plugins"][0]] if f"`{key}`" not in page] == []


def test_saved_job_reads_back_to_the_job_that_ran(job, ringfence):
    ringfence("train", job(TRUSTED_JOB), "--set", "seed=3", "--out", "out")
    saved = read_job("out/job.yaml").job
    # With what is held out written down, which a resumed run then has in any series.
    written = read_job("job.yaml", ["seed=3", "validation_fraction=0.1"])
    assert saved == written.job.based(Path.cwd())


def test_flags_beat_the_file(job, ringfence):
    done = ringfence(
        "train", job(), "--set", "steps=2", "--plugin", "optim:lr=0.5,isolation=trusted", "--out", "out"
    )
    assert done.status == 0, done.err
    assert record("out")["steps"] == 2
    assert record("out")["plugins"][0]["isolation"] == "trusted"
    assert "TRUSTED" in done.out


@pytest.mark.room
def test_sandboxed_and_trusted_give_the_same_weights(job, ringfence):
    ringfence("train", job(), "--out", "a")
    ringfence("train", job(), "--out", "b", "--set", "plugins.optim.isolation=trusted")
    assert record("a")["weights_sha256"] == record("b")["weights_sha256"]


def test_plain_log_names_order_layers_metrics_and_speed(all_four):
    out = all_four[1].out
    assert "augment.forward: augment" in out
    assert f"optim {__version__} (optimizer): sandboxed" in out
    assert "landlock" in out
    assert "validation accuracy" in out
    assert "\ntest loss " in out
    assert "steps/s" in out
    assert "report  runs/job-1/report.html" in out


def test_quiet_shows_the_result_only(job, ringfence):
    lines = ringfence("train", job(TRUSTED_JOB), "--quiet").out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("completed after 6 steps  validation loss ")
    assert lines[1].startswith("test loss ")


def test_folders_are_numbered(job, ringfence):
    name = job(TRUSTED_JOB, name="small.yaml")
    for _ in range(2):
        ringfence("train", name, "--quiet", "--set", "steps=1")
    assert sorted(path.name for path in Path("runs").iterdir()) == ["small-1", "small-2"]


@pytest.mark.room
def test_stopped_run_resumes_to_the_same_weights(job, ringfence, tmp_path):
    name = job(TRUSTED_JOB.replace("steps: 6", "steps: 600"))
    straight = ringfence("train", name, "--out", "straight")
    assert straight.status == 0, straight.err
    stopped = interrupted("train", name, "--out", "stopped", cwd=tmp_path, times=1)
    assert stopped[0] == 130, stopped
    assert "continue with: ringfence train --resume stopped" in stopped[1]
    middle = record("stopped")
    assert middle["status"] == "interrupted"
    assert 0 < middle["steps"] < 600
    # Without the job file: the folder knows its job.
    resumed = ringfence("train", "--resume", "stopped")
    assert resumed.status == 0, resumed.err
    assert record("stopped")["status"] == "completed"
    assert record("stopped")["weights_sha256"] == record("straight")["weights_sha256"]


def interrupted(*arguments, cwd, times):
    """Run, send SIGINT ``times`` times once steps are shown, and return status, output and error."""
    run = start(*arguments, cwd=cwd)
    journal = Path(cwd) / arguments[-1] / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and run.poll() is None:
        if journal.exists() and journal.read_text().count('"train"') > 3:
            break
        time.sleep(0.01)
    for _ in range(times):
        run.send_signal(signal.SIGINT)
        time.sleep(0.05)
    out, err = run.communicate(timeout=60)
    return run.returncode, out, err


def test_resume_with_another_job_is_refused_and_changes_nothing(job, ringfence):
    ringfence("train", job(TRUSTED_JOB), "--out", "out")
    before = {name: Path("out", name).read_bytes() for name in ("run.json", "job.yaml")}
    done = ringfence("train", "--resume", "out", "--set", "batch_size=16")
    assert done.status == 2
    assert "batch_size" in done.err
    assert {name: Path("out", name).read_bytes() for name in before} == before


def test_finished_run_can_be_made_longer(job, ringfence):
    ringfence("train", job(TRUSTED_JOB), "--out", "out")
    done = ringfence("train", "--resume", "out", "--set", "steps=8")
    assert done.status == 0, done.err
    assert record("out")["steps"] == 8


def test_fault_of_a_plugin_aborts_with_status_3_and_names_it(job, ringfence):
    text = SMALL_JOB.replace("lr: 1e-3", "lr: 1e30").replace("hidden: [8]", "hidden: [8, 8]")
    done = ringfence("train", job(text + "    on_failure: abort\n"))
    assert done.status == 3
    assert "Traceback" not in done.err
    assert "plugin 'optim'" in done.err or "diverged" in done.err
    run = record()
    assert run["status"] == "aborted"
    assert run["error"]
    assert Path("runs/job-1/report.html").exists()


def test_report_is_written_anew(job, ringfence):
    ringfence("train", job(TRUSTED_JOB), "--out", "out")
    Path("out/report.html").unlink()
    done = ringfence("report", "out")
    assert done.status == 0
    assert done.out.strip() == "out/report.html"
    assert Path("out/report.html").stat().st_size > 1000


def test_report_of_no_run_is_refused(ringfence, tmp_path):
    done = ringfence("report", tmp_path)
    assert done.status == 2
    assert "holds no run.json" in done.err


def in_small_disk(folder, *command):
    """Run a command with ``folder`` on a disk of 400 kB, in a mount namespace of its own."""
    script = f'mount -t tmpfs -o size=400k tmpfs {folder} && exec "$@"'
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_full_disk_is_told_as_such(job, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("unshare") is None or in_small_disk(disk, "true").returncode:
        pytest.skip("no mount namespaces here")
    name = job(f"{TRUSTED_JOB}keep_checkpoints: 99\ncheckpoint_every: 1\n")
    command = [
        sys.executable,
        "-m",
        "ringfence",
        "train",
        name,
        "--set",
        "steps=60",
        "--out",
        str(disk / "run"),
    ]
    done = in_small_disk(disk, *command)
    assert done.returncode == 3, done.stderr
    assert "the disk is full" in done.stderr
    assert f"--resume {disk / 'run'}" in done.stderr
    assert "Traceback" not in done.stderr


def test_waiting_threads_sleep_unless_the_user_says_otherwise(tmp_path):
    """The trainer shares its processors with its plugins; this is read when torch is loaded."""
    script = (
        "import os, sys\n"
        "from ringfence.cli.app import main\n"
        "sys.argv = ['ringfence', '--version']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)\n"
    )
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
        environment |= {"OMP_WAIT_POLICY": given} if given else {}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
        )
        assert done.stdout.splitlines()[-1] == f"{expected} False"


WANDERING = """\
import os
from torch import nn

os.chdir("/")

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""


def test_a_model_that_goes_elsewhere_in_mid_run_leaves_the_run_here(ringfence, job, tmp_path, monkeypatch):
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "roaming.py").write_text(
        "import itertools, os\n"
        "from torch import nn\n"
        "calls = itertools.count()\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(784, 10)\n"
        "    def forward(self, inputs):\n"
        "        if self.training and next(calls) == 5:\n"
        f"            os.chdir({str(there)!r})\n"
        "        return super().forward(inputs.flatten(1))\n"
    )
    monkeypatch.delitem(sys.modules, "roaming", raising=False)
    name = job(TRUSTED_JOB.replace("{name: mlp, hidden: [8]}", "roaming:Net"))

    done = ringfence("train", name, "--out", "run")

    assert done.status == 0, done.err
    assert list(there.iterdir()) == []
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "completed"
    assert (tmp_path / "run" / "report.html").exists()


def test_a_run_whose_code_goes_elsewhere_stays_where_it_was_started(ringfence, job, tmp_path, monkeypatch):
    (tmp_path / "wandering.py").write_text(WANDERING)
    monkeypatch.delitem(sys.modules, "wandering", raising=False)
    name = job(TRUSTED_JOB.replace("{name: mlp, hidden: [8]}", "wandering:net"), "my job.yaml")

    done = ringfence("train", name)

    assert done.status == 0, done.err
    assert f"report  {tmp_path}/runs/my job-1/report.html" in done.out
    monkeypatch.chdir(tmp_path)
    again = ringfence("train", "--resume", "runs/my job-1")
    assert "ringfence train --resume 'runs/my job-1' --set steps=12" in again.out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--fast-dev-run", "--overfit", "4"], "--fast-dev-run and --overfit are both given"),
        (
            ["--overfit", "4", "--resume", "run"],
            "--overfit and --resume, both given, do not go together: a run that is cut",
        ),
    ],
)
def test_runs_that_are_cut_down_are_of_one_kind_and_begin_anew(job, ringfence, flags, told):
    done = ringfence("train", job(TRUSTED_JOB), *flags)
    assert done.status == 2
    assert told in done.err


def test_a_fast_dev_run_says_what_it_did_and_that_nothing_is_kept(job, ringfence, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    done = ringfence("train", job(TRUSTED_JOB), "--fast-dev-run", "--macs")
    assert done.status == 0
    assert "--fast-dev-run: one step, with each plugin in it" in done.out
    assert "MACs a sample" in done.out
    assert "nothing of it is kept; to look at what a run leaves, name a folder with --out" in done.out
    assert {path.name for path in tmp_path.rglob("*")} == {"job.yaml", "temporary"}
