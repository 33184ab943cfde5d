"""A lock beside a job: what is installed is compared with it by file, and refused by name."""

import json

import msgspec
import pytest

from ringfence.discovery.distribution_digest import DistributionDigest, ReadFile
from ringfence.discovery.provenance import Provenance
from ringfence.hooks.errors import JobError
from ringfence.job.job_file import read_job
from ringfence.run import plugin_lock
from ringfence.run.plugin_lock import PluginLock, check_lock, differences, find_lock, lock_of, lock_path

JOB = "model: mlp\ndata: mnist10k\nsteps: 1\nplugins:\n  - optim: {algorithm: sgd, lr: 0.1}\n"


def digest(name, version="1.0", gap="", record="", **files):
    read = {
        f"{name}/{file}.py": ReadFile(text * 64, f"/{name}/{file}.py", (0, 0, 0, 0, 0))
        for file, text in files.items()
    }
    return DistributionDigest(name, version, read, record=record, gap=gap)


def provenance(*digests, plugins=None):
    return Provenance(plugins or {"blur": ("acme", "beta")}, {each.name: each for each in digests})


ACME, BETA, TORCH = digest("acme", a="1", b="2"), digest("beta", a="3"), digest("torch", record="4" * 64)
LOCK = lock_of(provenance(ACME, BETA, TORCH))


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ((ACME, BETA, TORCH), []),
        ((digest("acme", a="1", b="9"), BETA, TORCH), ["acme 1.0: acme/b.py has changed"]),
        ((digest("acme", a="1"), BETA, TORCH), ["acme 1.0: acme/b.py is missing"]),
        (
            (digest("acme", a="2", b="2", c="3"), BETA, TORCH),
            ["acme 1.0: acme/a.py has changed, acme/c.py was added"],
        ),
        ((ACME, digest("beta", "2.0", a="3"), TORCH), ["beta 2.0 is installed, and 1.0 is in the lock"]),
        ((ACME, digest("beta", "", gap="x"), TORCH), ["beta 1.0 is in the lock, and is not installed"]),
        ((ACME, digest("beta", gap="it has a link"), TORCH), ["beta 1.0 cannot be compared: it has a link"]),
        ((ACME, BETA, digest("torch", record="5" * 64)), ["torch 1.0: its list of files has changed"]),
        ((ACME, BETA, TORCH, digest("more", a="1")), ["more 1.0 is not in the lock"]),
    ],
)
def test_each_difference_is_told_by_distribution_and_file(now, told):
    assert list(differences(LOCK, provenance(*now))) == told


def test_other_plugins_than_were_locked_are_named():
    other = {"blur": ("acme", "beta"), "noise": ("gamma",)}
    found = provenance(ACME, BETA, digest("gamma", a="1"), plugins=other)
    assert list(differences(LOCK, found)) == [
        "plugin 'noise', of gamma 1.0, is not in the lock",
        "gamma 1.0, which plugin 'noise' brings, is not in the lock",
    ]
    assert list(differences(LOCK, provenance(ACME, BETA, plugins={"blur": ("beta",)}))) == [
        "plugin 'blur' comes from beta, and from acme in the lock"
    ]
    assert list(differences(LOCK, provenance(BETA, plugins={}))) == []


def test_what_was_not_installed_when_it_was_locked_is_a_difference_once_it_is():
    lock = lock_of(provenance(ACME, digest("beta", "", gap="it is not installed")))
    assert list(differences(lock, provenance(ACME, BETA))) == [
        "beta 1.0 was not installed when the lock was made"
    ]


def test_a_stranger_that_cannot_be_digested_cannot_be_locked():
    with pytest.raises(JobError, match=r"cannot be locked:\n  beta 1.0: it has a link"):
        lock_of(provenance(ACME, digest("beta", gap="it has a link")))
    # Of ringfence's own the version is held then, and the reason is in the lock.
    own = lock_of(provenance(ACME, BETA, digest("ringfence", gap="installed with -e")))
    assert own.distributions["ringfence"].not_digested == "installed with -e"


def test_many_differences_are_counted_and_not_listed_all():
    files = {f"f{number}": "1" for number in range(30)}
    (told,) = differences(LOCK, provenance(digest("acme", a="1", b="2", **files), BETA, TORCH))
    assert told.count("was added") == 8
    assert told.endswith("and 22 more")


def test_a_lock_is_sorted_and_a_line_a_file(job):
    path = lock_path(job)
    path.write_text(LOCK.encode())
    assert path.name == "job.lock.json"
    lines = LOCK.encode().splitlines()
    assert lines == json.dumps(json.loads(LOCK.encode()), indent=1, sort_keys=True).splitlines()
    assert sum("/a.py" in line or "/b.py" in line for line in lines) == 3
    assert find_lock(read_job(job)).lock == LOCK


def test_a_lock_that_could_not_be_read_again_is_not_written(monkeypatch):
    monkeypatch.setattr(plugin_lock, "MAX_BYTES", len(LOCK.encode()))
    LOCK.encode()
    monkeypatch.setattr(plugin_lock, "MAX_BYTES", len(LOCK.encode()) - 1)

    with pytest.raises(JobError, match=r"the lock would have \d+ bytes, of the files of 3 distributions"):
        LOCK.encode()


def test_a_job_without_a_lock_has_none(job):
    assert find_lock(read_job(job)) is None


def test_what_differs_is_refused_with_what_to_do(job):
    lock_path(job).write_text(LOCK.encode())
    found = find_lock(read_job(job))
    check_lock(found, provenance(ACME, BETA, TORCH), job)
    with pytest.raises(JobError) as caught:
        check_lock(found, provenance(digest("acme", a="1", b="9"), BETA, TORCH), job)
    told = str(caught.value)
    assert told.startswith(f"{lock_path(job)} locks what the plugins of this job are made of, and what is ")
    assert "installed differs:\n  acme 1.0: acme/b.py has changed\nInstall what was locked (pip" in told
    assert told.endswith(f"lock anew: ringfence plugins lock {job}, with the same --set and --plugin")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", '{"schema": 2, "plugins": {}, "distributions": {}}', "[" * 100_000),
        LOCK.encode().replace('"version"', '"versoin"'),
        LOCK.encode().replace("1" * 64, "1" * 63 + "g"),
        LOCK.encode().replace("1" * 64, "A" * 64),
    ],
)
def test_a_lock_that_is_damaged_is_refused_and_never_taken_for_none(job, text):
    lock_path(job).write_text(text)
    with pytest.raises(JobError, match=r"cannot be read as a lock of plugins .* ringfence plugins lock"):
        find_lock(read_job(job))


def test_a_lock_that_is_a_link_is_refused(job, tmp_path):
    (tmp_path / "other").write_text(LOCK.encode())
    lock_path(job).symlink_to(tmp_path / "other")
    with pytest.raises(JobError, match="is a symbolic link"):
        find_lock(read_job(job))


def test_what_a_lock_says_is_shown_without_harm():
    odd = msgspec.structs.replace(LOCK.distributions["acme"], version="\x1b[2J" + "9" * 1000)
    lock = PluginLock(schema=1, plugins=LOCK.plugins, distributions={**LOCK.distributions, "acme": odd})
    (told,) = differences(lock, provenance(ACME, BETA, TORCH))
    assert told.isprintable()
    assert len(told) < 300
