"""``ringfence train --resume``: of runs in every condition, with the job as it was or with another."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ringfence.api.run_display import QuietView, RunDisplay
from ringfence.job.job_file import read_job
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare
from ringfence.tracking.folder_lock import hold_lock

from .conftest import TRUSTED_JOB


class Killed(KeyboardInterrupt):
    """Stands for the end of the process: nothing goes on after it, and no page is written."""


class KillAt(RunDisplay):
    """Kills the run in the middle of what follows step ``at``."""

    def __init__(self, at):
        super().__init__(QuietView())
        self.at = at

    def step(self, step, loss, samples):
        if step.global_step == self.at:
            raise Killed


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of ``TRUSTED_JOB``: made once, to be copied."""
    base = tmp_path_factory.mktemp("finished")
    (base / "job.yaml").write_text(TRUSTED_JOB)
    before = torch.get_num_threads()
    execute(prepare(read_job(base / "job.yaml"), base), base / "run")
    torch.set_num_threads(before)
    return base / "run"


@pytest.fixture
def out(finished, tmp_path, monkeypatch):
    """A copy of a finished run: ``out`` in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "out")
    return Path("out")


def of_0_2(folder):
    """Have a folder's record alone tell where relative paths start from, as a run of 0.2 has left it."""
    path = folder / "job.yaml"
    path.write_text(re.sub("base_folder: .*\n", "", path.read_text()))


def record(folder="out"):
    return json.loads((Path(folder) / "run.json").read_text())


def events(folder="out"):
    return [json.loads(line)["message"] for line in (Path(folder) / "events.jsonl").read_text().splitlines()]


def contents(folder):
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def written(folder):
    """Return what the run measured: all lines but those about processes, without the time of day."""
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line | {"time": None} for line in lines if line["kind"] != "run"]


# another job


def test_a_refused_resume_says_what_differs_and_changes_no_file(out, ringfence):
    before = contents(out)
    done = ringfence("train", "--resume", "out", "--set", "batch_size=16", "--set", "plugins.optim.lr=0.5")
    assert done.status == 2
    assert "batch_size: 32 in the checkpoint, 16 in this job (cannot change: " in done.err
    assert "plugins.optim.lr: 0.001 in the checkpoint, 0.5 in this job\n" in done.err
    assert "The rest is accepted with: --accept plugins.optim.lr\n" in done.err
    assert contents(out) == before


def test_an_accepted_change_holds_is_told_and_leaves_the_old_job_beside(out, ringfence):
    old_job = (out / "job.yaml").read_text()
    change = ("--set", "plugins.optim.lr=0.5", "--set", "steps=8")
    done = ringfence("train", "--resume", "out", *change, "--accept", "plugins.optim.lr")
    assert done.status == 0, done.err
    told = "accepted: plugins.optim.lr: 0.001 in the checkpoint, 0.5 in this job"
    assert told in done.out
    assert told in events()
    assert record()["accepted"] == [{"step": 6, "key": "plugins.optim.lr", "then": 0.001, "now": 0.5}]
    assert (out / "job-before-step-6.yaml").read_text() == old_job
    assert read_job(out / "job.yaml").job.plugins[0].options["lr"] == 0.5
    rates = {line["optim/lr"] for line in written(out) if line["kind"] == "plugin" and line["step"] >= 6}
    assert rates == {0.5}
    # From now on it is the job of the run, and needs no word.
    again = ringfence("train", "--resume", "out", "--set", "steps=9")
    assert again.status == 0, again.err
    assert "accepted" not in again.out
    assert record()["accepted"] == [{"step": 6, "key": "plugins.optim.lr", "then": 0.001, "now": 0.5}]


def test_an_accepted_change_outlives_a_kill_before_the_next_checkpoint(out, ringfence):
    job = read_job(out / "job.yaml", ["plugins.optim.lr=0.5", "steps=9"])
    base = job.job.base(out / "job.yaml")
    with pytest.raises(Killed):
        execute(
            prepare(job, base),
            out,
            RunOptions(resume=True, accept=["plugins.optim.lr"], observers=[KillAt(7)]),
        )
    assert max(path.name for path in (out / "checkpoints").iterdir()) == "step-00000006"
    done = ringfence("train", "--resume", "out")
    assert done.status == 0, done.err
    assert record()["steps"] == 9
    assert len(record()["accepted"]) == 1
    assert [path.name for path in sorted(out.glob("job-before*"))] == ["job-before-step-6.yaml"]


def test_a_plugin_may_come_and_go(out, ringfence):
    add = ("--plugin", "gradclip:max_norm=1.0,isolation=trusted", "--set", "steps=7")
    refused = ringfence("train", "--resume", "out", *add)
    assert refused.status == 2
    assert "plugins.gradclip: not in the checkpoint; it starts without state\n" in refused.err
    done = ringfence("train", "--resume", "out", *add, "--accept", "plugins.gradclip")
    assert done.status == 0, done.err
    assert [plugin["name"] for plugin in record()["plugins"]] == ["optim", "gradclip"]
    job = Path("without.yaml")
    job.write_text(TRUSTED_JOB.replace("steps: 6", "steps: 8"))
    done = ringfence("train", job, "--resume", "out", "--accept", "plugins.gradclip")
    assert done.status == 0, done.err
    assert (
        "accepted: plugins.gradclip: in the checkpoint, not in this job; its state is left behind" in done.out
    )
    assert [entry["step"] for entry in record()["accepted"]] == [6, 7]
    assert {path.name for path in out.glob("job-before*")} == {
        "job-before-step-6.yaml",
        "job-before-step-7.yaml",
    }


def test_another_algorithm_needs_a_word_about_its_state_too(out, ringfence):
    change = ("--set", "plugins.optim.algorithm=lamb", "--set", "steps=7")
    words = ("--accept", "plugins.optim.algorithm")
    refused = ringfence("train", "--resume", "out", *change, *words)
    assert refused.status == 2
    assert "the state was saved by torch.optim.AdamW; this is torch_optimizer.Lamb" in refused.err
    assert "to start it without, add: --accept state.optim\n" in refused.err
    assert not list(out.glob("job-before*"))
    done = ringfence("train", "--resume", "out", *change, *words, "--accept", "state.optim")
    assert done.status == 0, done.err
    assert [entry["key"] for entry in record()["accepted"]] == ["plugins.optim.algorithm", "state.optim"]


def test_a_word_without_a_difference_or_without_a_run_is_refused(out, ringfence):
    before = contents(out)
    done = ringfence("train", "--resume", "out", "--set", "steps=7", "--accept", "plugins.optim.lr")
    assert done.status == 2
    assert "--accept plugins.optim.lr: checkpoint " in done.err
    assert "do not differ in that; what differs: nothing" in done.err
    assert contents(out) == before
    done = ringfence("train", "out/job.yaml", "--accept", "plugins.optim.lr")
    assert done.status == 2
    assert "name its folder with --resume" in done.err


def test_other_threads_are_told_since_the_last_bits_may_differ(out, ringfence):
    done = ringfence("train", "--resume", "out", "--set", "steps=7", "--set", "threads=2")
    assert done.status == 0, done.err
    told = "its weights may differ in the last bits from an unstopped run's: threads 1 then, 2 now"
    assert told in done.out
    assert any(told in event for event in events())


def test_what_has_changed_of_its_plugins_since_it_began_is_told_and_kept(out, ringfence):
    told = record()
    digests = {entry["name"]: entry for entry in told["distributions"]}
    assert (told["plugins"][0]["requires"], told["distributions_changed"]) == ([], [])
    assert digests["torch"]["version"] == told["torch_version"]
    digests["torch"]["version"], digests["numpy"]["sha256"] = "1.0", "0" * 64
    (out / "run.json").write_text(json.dumps(told))
    for steps in (7, 8):
        done = ringfence("train", "--resume", "out", "--set", f"steps={steps}")
        assert done.status == 0, done.err
        assert f"torch 1.0 is now {told['torch_version']}" in done.out
        assert f"numpy {digests['numpy']['version']} has other files" in done.out
        changed = record()["distributions_changed"]
        assert [(each["name"], each["then"]["version"]) for each in changed][1] == ("torch", "1.0")


# runs in other conditions


def test_a_finished_run_has_nothing_to_do_unless_it_is_asked_for_more(out, ringfence):
    before = contents(out)
    done = ringfence("train", "--resume", "out")
    assert done.status == 0
    assert done.out == (
        "completed after 6 steps: nothing to do. To go on, ask for more, for example: "
        "ringfence train --resume out --set steps=12\n"
    )
    assert contents(out) == before
    done = ringfence("train", "--resume", "out", "--set", "steps=5")
    assert done.status == 2
    assert "the run has taken 6 steps already, and the job asks for 5" in done.err
    assert contents(out) == before


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def rot(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    "lose",
    [
        shutil.rmtree,
        lambda last: cut(last / "model.safetensors"),
        lambda last: rot(last / "model.safetensors"),
    ],
)
def test_a_finished_run_whose_last_checkpoint_is_lost_makes_it_again(out, ringfence, lose):
    job = TRUSTED_JOB + "checkpoint_every: 4\n"
    Path("job.yaml").write_text(job)
    assert ringfence("train", "job.yaml", "--out", "four").status == 0
    weights, last = record("four")["weights_sha256"], Path("four/checkpoints/step-00000006")
    lose(last)

    done = ringfence("train", "--resume", "four")

    assert done.status == 0, done.err
    assert "resumed after step 4" in done.out
    assert record("four")["weights_sha256"] == weights
    assert "nothing to do" in ringfence("train", "--resume", "four").out


def test_a_moved_run_and_a_copy_of_it_go_on_to_the_same_weights(out, ringfence):
    shutil.copytree(out, "copy")
    out.rename("moved")
    for folder in ("moved", "copy"):
        done = ringfence("train", "--resume", folder, "--set", "steps=7")
        assert done.status == 0, done.err
    assert record("moved")["weights_sha256"] == record("copy")["weights_sha256"]
    assert written("moved") == written("copy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: (out / "job.yaml").unlink(), "job.yaml is missing in it; name the job file as well"),
        (lambda out: (out / "job.yaml").write_text("model: ["), "out/job.yaml:"),
        (lambda out: [of_0_2(out), (out / "run.json").unlink()], "run.json is missing or damaged"),
        (lambda out: [of_0_2(out), (out / "run.json").write_text("[1]")], "run.json is missing or damaged"),
        (lambda out: (out / "run.json").unlink(), None),
        (lambda out: shutil.rmtree(out / "checkpoints"), "ended before the first checkpoint"),
        (lambda out: shutil.rmtree(out / "checkpoints" / "step-00000006"), None),
        (shutil.rmtree, "there is no such folder"),
        (lambda out: [shutil.rmtree(out), out.mkdir()], "holds no run; name the folder of a run"),
        (lambda out: [shutil.rmtree(out), out.write_text("")], "is no folder"),
    ],
)
def test_a_folder_that_lacks_something_is_told_with_what_to_do(out, ringfence, change, message):
    change(out)
    before = contents(out)
    done = ringfence("train", "--resume", "out", "--trust-code", "--set", "steps=7")
    assert "Traceback" not in done.err
    if message is None:
        # What is left is as good: steps that are in no checkpoint are taken again.
        assert done.status == 0, done.err
        assert record()["steps"] == 7
        return
    assert done.status == 2
    assert message in done.err
    assert contents(out) == before


def test_a_job_edited_by_hand_counts_and_its_changes_are_told(out, ringfence):
    job = out / "job.yaml"
    job.write_text(job.read_text().replace("0.001", "0.25").replace("steps: 6", "steps: 7"))
    # Of a plugin without a sandbox the options say what it does to the trainer.
    assert "plugin 'optim', isolation: trusted" in ringfence("train", "--resume", "out").err
    flags = ("train", "--resume", "out", "--trust-code")
    refused = ringfence(*flags)
    assert refused.status == 2
    assert "plugins.optim.lr: 0.001 in the checkpoint, 0.25 in this job" in refused.err
    done = ringfence(*flags, "--accept", "plugins.optim.lr")
    assert done.status == 0, done.err


def test_a_job_whose_folder_is_gone_is_told_as_such(out, ringfence, tmp_path):
    gone = tmp_path / "gone/away"
    job = out / "job.yaml"
    job.write_text(job.read_text().replace("name: mnist10k", "name: idx\n  path: data"))
    run_json = out / "run.json"
    run_json.write_text(json.dumps(record() | {"base_folder": str(gone)}))
    of_0_2(out)
    for flags in (("--resume", "out"), ("out/job.yaml", "--set", f"base_folder={gone}")):
        done = ringfence("train", *flags, "--trust-code", "--set", "steps=7")
        assert done.status == 2
        said = f"relative paths of the job start from {gone}, which is gone; if it was moved, say"
        assert said in " ".join(done.err.split())


_MINE = """
import torch

def net():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
"""


@pytest.fixture
def relative(job, tmp_path):
    """Return a job in a folder of its own that names data and a module beside it."""
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    numbers = np.random.default_rng(0)
    np.savez(
        home / "data/a.npz", inputs=numbers.random((64, 4), np.float32), targets=numbers.integers(0, 3, 64)
    )
    (home / "beside_the_job.py").write_text(_MINE)
    model, data = "model: beside_the_job:net", "data: {name: arrays, path: data/a.npz}"
    text = TRUSTED_JOB.replace("model: {name: mlp, hidden: [8]}", model)
    job(text.replace("data: {name: mnist10k, limit: 256}", data), "home/job.yaml")
    return home


def test_the_job_that_a_run_leaves_runs_anew_from_where_it_lies(relative, ringfence):
    assert ringfence("train", "home/job.yaml", "--out", "out").status == 0
    done = ringfence("train", "out/job.yaml", "--out", "again")

    assert done.status == 0, done.err
    assert record("again")["weights_sha256"] == record("out")["weights_sha256"]
    assert record("again")["base_folder"] == str(relative)


def test_data_that_were_replaced_are_told_and_may_be_accepted(relative, ringfence):
    assert ringfence("train", "home/job.yaml", "--out", "out").status == 0
    path = relative / "data/a.npz"
    arrays = dict(np.load(path))
    arrays["inputs"][5, 2] += 0.5
    np.savez(path, **arrays)
    flags = ("train", "--resume", "out", "--set", "steps=7")

    refused = ringfence(*flags)
    assert refused.status == 2
    assert re.search(
        r"  data_contents\.\w+: the data have changed: \d+ samples, \w{16} then, \d+ samples, \w{16} now\n",
        refused.err,
    )
    accept = refused.err.partition("accepted with: ")[2].split()
    done = ringfence(*flags, *accept)
    assert done.status == 0, done.err
    assert [entry["key"] for entry in record()["accepted"]] == accept[1::2]
    assert ringfence("train", "--resume", "out", "--set", "steps=8").status == 0


def test_a_run_goes_on_with_its_own_job_and_with_that_of_the_user(relative, ringfence):
    assert ringfence("train", "home/job.yaml", "--out", "out").status == 0
    for number, flags in enumerate([("--resume", "out"), ("home/job.yaml", "--resume", "out")], 7):
        done = ringfence("train", *flags, "--set", f"steps={number}")
        assert done.status == 0, done.err
        assert record("out")["steps"] == number


def test_a_run_whose_jobs_folder_has_moved_is_told_where_it_is(relative, ringfence, tmp_path):
    assert ringfence("train", "home/job.yaml", "--out", "out").status == 0
    relative.rename(tmp_path / "moved")
    flags = ("--resume", "out", "--set", "steps=7")

    assert "which is gone; if it was moved, say where it is now" in ringfence("train", *flags).err
    done = ringfence("train", *flags, "--set", f"base_folder={tmp_path / 'moved'}")
    assert done.status == 0, done.err
    assert ringfence("train", "--resume", "out", "--set", "steps=8").status == 0


def test_a_run_that_goes_on_elsewhere_is_left_alone(out, ringfence):
    before = contents(out)
    with hold_lock(out, "--out"):
        for flags in (("--resume", "out"), ("out/job.yaml", "--out", "out")):
            done = ringfence("train", *flags)
            assert done.status == 2
            assert "a run is going on in it (process " in done.err
    assert {name: data for name, data in contents(out).items() if not name.endswith(".lock")} == {
        name: data for name, data in before.items() if not name.endswith(".lock")
    }


def test_a_disk_that_may_only_be_read_is_told(out, tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("no mount namespaces here")
    code = (
        "import sys; from pathlib import Path\n"
        "from ringfence.tracking.run_folder import check_old, claim\n"
        "from ringfence.hooks.errors import JobError\n"
        "check_old(Path(sys.argv[1]))\n"
        "try: claim(Path(sys.argv[1]), '--resume')\n"
        "except JobError as error: print(error)\n"
    )
    script = f'mount --bind {out} {out} && mount -o remount,bind,ro {out} && exec "$@"'
    namespaces = ["unshare", "--user", "--map-root-user", "--mount"]
    command = [*namespaces, "sh", "-c", script, "sh", sys.executable, "-c", code, out]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert "--resume out: cannot be written: the file system is read-only; make room, or" in done.stdout
