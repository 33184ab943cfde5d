"""What a run's folder names is no permission: attacks by a folder, each beside it with the user's word."""

import hashlib
import inspect
import json
import os
import re
import shutil
import stat
from pathlib import Path

import pytest
import torch

import ringfence
from ringfence.api.train_request import TrainRequest, read_request
from ringfence.datasets.dataset_registry import DATASETS
from ringfence.hooks.errors import CheckpointError, JobError, RingfenceError
from ringfence.job.job_file import Job, read_job
from ringfence.job.yaml_document import dump_yaml, read_yaml
from ringfence.tracking.model_record import read_model_record
from ringfence.tracking.own_runs import DATA_WORDS, HARMLESS, JUDGED, permitted, wants_of

JOB = """\
model: {name: mlp, hidden: [4]}
data: {name: mnist10k, limit: 32}
steps: 1
batch_size: 16
threads: 1
plugins:
  - optim: {algorithm: sgd, lr: 0.1}
    isolation: trusted
"""
NET = """\
from pathlib import Path
from torch import nn

(Path(__file__).parent / "imported").touch()

def net(width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.Linear(width, 10))
"""


def train(base, job):
    (base / "job.yaml").write_text(job)
    threads = torch.get_num_threads()
    try:
        ringfence.train(base / "job.yaml", out=base / "run", progress=False)
    finally:
        torch.set_num_threads(threads)
    return base / "run"


@pytest.fixture(scope="module")
def made_elsewhere(tmp_path_factory):
    """The run of somebody with another key."""
    ours = os.environ["XDG_STATE_HOME"]
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("theirs"))
    try:
        return train(tmp_path_factory.mktemp("elsewhere"), JOB)
    finally:
        os.environ["XDG_STATE_HOME"] = ours


@pytest.fixture(scope="module")
def made_here(tmp_path_factory):
    """A run of ours, whose model is our own code."""
    base = tmp_path_factory.mktemp("here")
    (base / "own_net.py").write_text(NET)
    return train(base, JOB.replace("{name: mlp, hidden: [4]}", "{name: 'own_net:net', width: 5}"))


@pytest.fixture
def theirs(made_elsewhere, made_here, tmp_path, monkeypatch):
    """A copy of somebody else's run, to be changed; we, who have made runs too, stand in an empty folder."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    run = shutil.copytree(made_elsewhere, tmp_path / "theirs")
    rewrite(run, lambda job: job["plugins"][0].update(isolation="sandbox"))
    return run


@pytest.fixture
def ours(made_here, tmp_path):
    """A copy of our own run, which so has moved."""
    return shutil.copytree(made_here, tmp_path / "ours")


def rewrite(run, change):
    job = read_yaml(run / "job.yaml").value
    change(job)
    (run / "job.yaml").write_text(dump_yaml(job))


def retell(run, change):
    told = json.loads((run / "model.json").read_text())
    change(told)
    (run / "model.json").write_text(json.dumps(told))


def request(run, how, **options):
    """Read what a command asks for that goes on with a run, or makes it anew."""
    given = {"resume": run} if how == "resume" else {"path": run / "job.yaml"}
    return read_request(TrainRequest(**given, **options))


#: What a folder may name, by what is told of it.
ATTACKS = {
    "model 'subprocess:run'": {"model": {"name": "subprocess:run", "args": ["touch", "MARK"]}},
    "data 'subprocess:run'": {"data": {"name": "subprocess:run", "args": ["touch", "MARK"]}},
    "loss 'subprocess:run'": {"loss": {"name": "subprocess:run", "args": ["touch", "MARK"]}},
    "loss[1] 'subprocess:run'": {
        "loss": ["cross_entropy", {"name": "subprocess:run", "args": ["touch", "MARK"]}]
    },
    "loss[0] 'subprocess:run'": {
        "loss": {"name": "sum", "terms": [{"name": "subprocess:run", "args": ["touch", "MARK"]}]}
    },
    "metrics[1] 'subprocess:run'": {"metrics": ["f1", {"name": "subprocess:run", "args": ["touch", "MARK"]}]},
    "schedule 'subprocess:run'": {"schedule": {"name": "subprocess:run"}},
    "alternate: ": {"alternate": [{"match": "*", "loss": {"name": "subprocess:run"}}]},
    "metric 'subprocess:run'": {"metric": "subprocess:run"},
    "data 'folder', path: /etc": {"data": {"name": "folder", "path": "/etc"}},
    "plugin 'optim', isolation: trusted": {"isolation": "trusted"},
    "plugin 'optim', read: /etc": {"read": ["/etc"]},
    "plugin 'optim', write: /mnt/x": {"write": ["/mnt/x"]},
    "plugin 'optim', connect: example.org:443": {"connect": ["example.org:443"]},
}


def attack(run, changes, mark=""):
    def change(job):
        for key, value in changes.items():
            place = job if key in Job.model_fields else job["plugins"][0]
            place[key] = json.loads(json.dumps(value).replace("MARK", str(mark)))

    rewrite(run, change)


@pytest.mark.parametrize("how", ["resume", "repeat"])
@pytest.mark.parametrize("named", ATTACKS)
def test_what_a_strangers_job_names_is_refused_by_name_and_followed_on_the_users_word(theirs, named, how):
    attack(theirs, ATTACKS[named])

    with pytest.raises(JobError, match=r"Nothing was done\.") as raised:
        request(theirs, how)
    assert named in str(raised.value)
    assert "not as a run of yours has written it" in str(raised.value)

    job_file, base = request(theirs, how, trust_code=True)
    assert Path(job_file.job.base_folder) == base
    assert any(want.what.startswith(named) for want in wants_of(job_file.job))


@pytest.mark.parametrize("how", ["resume", "repeat"])
@pytest.mark.parametrize("key", ["model", "data", "metrics[1]"])
def test_code_that_a_stranger_names_does_not_run_but_on_the_users_word(theirs, tmp_path, key, how):
    attack(theirs, ATTACKS[f"{key} 'subprocess:run'"], tmp_path / "mark")
    job, out = (None, theirs) if how == "resume" else (theirs / "job.yaml", tmp_path / "again")

    def start(*, trust_code):
        with pytest.raises(RingfenceError) as raised:
            ringfence.train(
                job, out=out, resume=how == "resume", trust_code=trust_code, progress=False, steps=2
            )
        return str(raised.value)

    assert "subprocess:run" in start(trust_code=False)
    assert not (tmp_path / "mark").exists()
    assert "CompletedProcess" in start(trust_code=True)
    assert (tmp_path / "mark").exists()


def test_a_network_that_a_stranger_names_is_not_called_but_on_the_users_word(theirs, tmp_path):
    args = {"args": ["touch", str(tmp_path / "mark")]}
    retell(theirs, lambda told: told["model"].update(name="subprocess:run", options=args))

    with pytest.raises(JobError, match=r"its model is 'subprocess:run', code to be .*code='subprocess:run'"):
        ringfence.load(theirs)
    assert not (tmp_path / "mark").exists()
    with pytest.raises(JobError, match="returned CompletedProcess"):
        ringfence.load(theirs, trust_code=True)
    assert (tmp_path / "mark").exists()


def test_the_folder_that_a_stranger_calls_its_base_is_not_looked_into(theirs, tmp_path):
    """Neither for modules, nor for paths that start from it."""
    (tmp_path / "own_net.py").write_text(NET)
    rewrite(theirs, lambda job: job.update(base_folder=str(tmp_path)))
    retell(theirs, lambda told: told["model"].update(name="own_net:net", options={}))

    assert request(theirs, "resume")[1] == Path.cwd()
    with pytest.raises(JobError):
        ringfence.load(theirs)
    assert not (tmp_path / "imported").exists()
    assert request(theirs, "resume", trust_code=True)[1] == tmp_path
    with pytest.raises(CheckpointError, match="is of another network"):
        ringfence.load(theirs, trust_code=True)
    assert (tmp_path / "imported").exists()


def test_builtin_names_need_no_word(theirs, made_elsewhere):
    job_file, _ = request(theirs, "resume")

    assert job_file.job.model.name == "mlp"
    assert ringfence.load(made_elsewhere).record.model.name == "mlp"


def test_what_a_flag_says_is_the_users_word(theirs):
    attack(theirs, ATTACKS["model 'subprocess:run'"])
    attack(theirs, ATTACKS["plugin 'optim', isolation: trusted"])
    told = ["model=mlp", "plugins.optim.isolation=sandbox"]

    assert request(theirs, "resume", sets=told)[0].job.model.name == "mlp"
    own = request(theirs, "resume", sets=["model=own_net:net", "plugins.optim.isolation=trusted"])
    assert (own[0].job.model.name, own[1]) == ("own_net:net", Path.cwd())
    with pytest.raises(JobError, match="isolation: trusted"):
        request(theirs, "resume", sets=told[:1])


@pytest.mark.parametrize("how", ["resume", "repeat"])
def test_a_run_of_ours_needs_no_word_wherever_its_folder_is(ours, how):
    job_file, base = request(ours, how)

    assert (job_file.job.model.name, str(base)) == ("own_net:net", job_file.job.base_folder)
    assert ringfence.load(ours).network[1].out_features == 5


def test_the_place_of_a_networks_modules_that_somebody_has_changed_is_anybodys(ours, tmp_path):
    told = json.loads((ours / "made-here.json").read_text())
    (ours / "made-here.json").write_text(json.dumps(told | {"base_folder": str(tmp_path)}))
    (tmp_path / "own_net.py").write_text(NET)

    with pytest.raises(JobError, match="code to be imported"):
        ringfence.load(ours)
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("change", "model_is_ours"),
    [
        (lambda job: job["model"].update(width=4), True),
        (lambda job: job.update(data={"name": "idx", "path": "digits"}), True),
        (lambda job: job["plugins"][0].update(read=["/etc"]), True),
        (lambda job: job["plugins"][0]["optim"].update(lr=7), True),
        (lambda job: job.update(base_folder="/"), True),
        (lambda job: job.update(metric="subprocess:run"), True),
    ],
)
def test_a_job_of_ours_that_somebody_has_changed_is_anybodys(ours, change, model_is_ours):
    rewrite(ours, change)

    with pytest.raises(JobError, match="it is not as a run of yours has written it"):
        request(ours, "resume")
    found = permitted(ours)
    assert (found.own_job, found.owns_model(read_model_record(ours))) == (False, model_is_ours)


def test_what_needs_no_permission_may_be_changed_by_hand(ours):
    rewrite(ours, lambda job: job.update(steps=9, data={"name": "mnist10k", "limit": 31}, loss="mse"))

    assert request(ours, "resume")[0].job.steps == 9


def test_a_network_of_ours_that_somebody_has_changed_is_anybodys(ours):
    retell(ours, lambda told: told["model"]["options"].update(width=4))

    with pytest.raises(JobError, match="code to be imported"):
        ringfence.load(ours)


def test_the_callers_own_name_is_looked_for_where_the_caller_is(ours, tmp_path, monkeypatch):
    (tmp_path / "moved_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)

    assert ringfence.load(ours, code="moved_net:net").network[1].out_features == 5
    with pytest.raises(JobError, match="not of the form module:function"):
        ringfence.load(ours, code="moved_net")


def test_a_network_that_was_an_object_is_built_by_what_the_caller_names(ours, tmp_path, monkeypatch):
    (tmp_path / "moved_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    retell(ours, lambda told: told["model"].update(name="<Net>"))
    shutil.rmtree(ours / "checkpoints")

    with pytest.raises(JobError, match=r"its model was an object of a Python program \(<Net>\)"):
        ringfence.load(ours)
    assert ringfence.load(ours, code="moved_net:net").network[1].out_features == 5


def test_of_a_builtin_network_there_is_no_code_to_name(theirs):
    with pytest.raises(JobError, match="is the builtin 'mlp'; leave it out"):
        ringfence.load(theirs, code="own_net:net")


def test_a_job_that_a_resume_has_replaced_is_not_vouched_for(ours):
    shutil.copy(ours / "job.yaml", ours / "job-before-step-1.yaml")
    found = TrainRequest(path=ours / "job-before-step-1.yaml")

    with pytest.raises(JobError, match="nothing shows that the run was made by you"):
        read_request(found)


def test_a_job_file_outside_of_a_runs_folder_is_the_users_own(ours, tmp_path):
    (tmp_path / "alone").mkdir()
    shutil.copy(ours / "job.yaml", tmp_path / "alone")

    assert request(tmp_path / "alone", "repeat")[0].job.model.name == "own_net:net"


@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "made-here.json",
        "metrics.jsonl",
        "events.jsonl",
        "model.json",
        "model.safetensors",
        "checkpoints",
    ],
)
def test_a_folder_without_what_shows_that_it_is_a_runs_is_one_all_the_same(ours, name):
    rewrite(ours, lambda job: job.update(metric="subprocess:run"))
    for path in [path for path in ours.iterdir() if path.name not in {"job.yaml", name}]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    with pytest.raises(JobError, match="names what needs your permission"):
        request(ours, "repeat")


def test_a_job_below_a_runs_folder_is_anybodys(ours):
    (ours / "sub").mkdir()
    shutil.copy(ours / "job.yaml", ours / "sub")

    with pytest.raises(JobError, match="names what needs your permission"):
        request(ours / "sub", "repeat")


def test_the_proof_of_a_job_that_wants_nothing_is_of_no_use_to_one_with_another_folder(tmp_path):
    """What a flag names would be looked for there, and code of whoever sent the folder would run."""
    (tmp_path / "harmless").mkdir()
    run = train(tmp_path / "harmless", JOB.replace("    isolation: trusted\n", ""))
    assert permitted(run).own_job
    rewrite(run, lambda job: job.update(base_folder="."))

    assert not permitted(run).own_job
    read, base, *_ = request(run, "repeat", sets=["model=own_net:net"])
    assert (read.job.model.name, base) == ("own_net:net", Path.cwd())


# the key


@pytest.fixture
def key(tmp_path, monkeypatch):
    """A copy of the key, which is this user's now."""
    place = tmp_path / "state" / "ringfence"
    shutil.copytree(Path(os.environ["XDG_STATE_HOME"]) / "ringfence", place)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return place / "own-runs.key"


def test_the_key_is_random_and_nobody_elses_to_read(made_here, key):
    assert (stat.S_IMODE(key.stat().st_mode), len(key.read_bytes())) == (0o600, 32)
    assert [path.name for path in key.parent.iterdir()] == ["own-runs.key"]


def link(key):
    key.rename(key.with_suffix(".moved"))
    key.symlink_to(key.with_suffix(".moved"))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda key: key.chmod(0o640), "is not yours alone"),
        (lambda key: key.write_bytes(b"short"), "is damaged"),
        (link, "symbolic link|too many levels"),
        (lambda key: (key.unlink(), os.mkfifo(key, 0o600)), "is not yours alone"),
        (lambda key: key.unlink(), "nothing shows that the run was made by you"),
        (lambda key: key.write_bytes(bytes(32)), "not as a run of yours"),
    ],
)
def test_with_a_key_that_cannot_vouch_no_run_is_ours(ours, key, harm, told):
    record = read_model_record(ours)
    before = permitted(ours)
    assert (before.own_job, before.owns_model(record)) == (True, True)
    harm(key)

    found = permitted(ours)
    assert (found.own_job, found.owns_model(record)) == (False, False)
    assert re.search(told, found.why_not, re.IGNORECASE)


def test_where_no_key_can_be_made_the_run_goes_on_and_is_anybodys(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    run = train(tmp_path, JOB)

    assert not (run / "made-here.json").exists()
    assert not permitted(run).own_job


@pytest.mark.parametrize("data", [b"", b"[]", b'{"job": 1}', b"{" * 4000, b" " * 5000, "ü".encode("latin-1")])
def test_a_damaged_proof_proves_nothing(ours, data):
    (ours / "made-here.json").write_bytes(data)

    assert not permitted(ours).own_job


# what the lists must hold


def test_every_key_of_a_job_is_harmless_judged_or_wants_a_permission():
    unjudged = Job.model_fields.keys() - HARMLESS - JUDGED
    whole = Job.model_validate({"model": "cnn", "data": "mnist10k", "steps": 1})
    for key in unjudged:
        changed = whole.model_copy(update={key: "something else"})
        assert [want.path for want in wants_of(changed)] == [(key,)]
    assert list(wants_of(whole)) == []
    assert Job.model_fields.keys() >= JUDGED


def test_options_of_readers_that_are_words_are_those_that_are_no_paths():
    for name, reader in DATASETS.items():
        for option in inspect.signature(reader, eval_str=True).parameters.values():
            is_path = "Path" in str(option.annotation)
            assert not (is_path and option.name in DATA_WORDS), f"{name}.{option.name}"


# weights


def weigh(run, data):
    """Put other bytes in place of a stranger's weights, digests and all."""
    shutil.rmtree(run / "checkpoints")
    (run / "model.safetensors").write_bytes(data)
    retell(run, lambda told: told.update(weights={"model.safetensors": hashlib.sha256(data).hexdigest()}))


def header(text):
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        header(b"[" * 100_000),
        header(b'{"x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'),
        header(b'{"x":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]}}'),
        b"PK\x03\x04" + bytes(100),
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    ],
    ids=["length", "nesting", "promise", "product", "zip", "pickle"],
)
def test_weights_that_are_a_bomb_or_a_program_are_refused(theirs, data):
    weigh(theirs, data)

    with pytest.raises(CheckpointError, match=r"is damaged|at most|has changed since"):
        ringfence.load(theirs, "last")


# what is read once


def test_a_job_that_is_changed_once_it_was_read_is_judged_as_it_was_read(ours, monkeypatch):
    """The control: whoever judged the file anew would permit what the bytes in hand do not say."""
    good = (ours / "job.yaml").read_bytes()
    rewrite(ours, lambda job: job.update(metric="subprocess:run"))
    permission = permitted(ours)
    job_file = read_job(ours / "job.yaml", data=permission.job_data)
    (ours / "job.yaml").write_bytes(good)

    assert permitted(ours).own_job
    with pytest.raises(JobError, match="metric 'subprocess:run'"):
        permission.base_of(job_file, ours / "job.yaml")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["job.yaml", "other.yaml"])
def test_a_job_that_is_a_pipe_is_not_waited_for(ours, name):
    (ours / "job.yaml").unlink()
    os.mkfifo(ours / name)

    with pytest.raises(JobError, match="is a FIFO"):
        read_request(TrainRequest(path=ours / name))
