"""``ringfence plugins lock``, and runs of a job that has a lock beside it."""

import json
import shutil
from pathlib import Path

import pytest

from ringfence.job.job_file import read_job
from ringfence.run.prepare import prepare

from ..site_folder import SiteFolder
from .conftest import TRUSTED_JOB

PLUGIN = """
from ringfence import passthrough

class Acme:
    role = "gradient"
    forward = passthrough

    def backward(self, gradients, step): ...
"""
FILES = {"acme_plugin/__init__.py": PLUGIN, "acme_plugin/inner.py": "A = 1\n"}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages with a plugin and what it requires."""
    folder = SiteFolder(tmp_path / "site")
    requires = ["ringfence>=0.1", "acme-tools"]
    folder.install("acme", FILES, requires=requires, points="acme = acme_plugin:Acme")
    folder.install("acme-tools", {"acme_tools.py": "B = 2\n"})
    monkeypatch.syspath_prepend(str(folder.folder))
    return folder


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(TRUSTED_JOB + "  - acme: {}\n")
    return Path("job.yaml")


def change(folder):
    (folder / "acme_plugin" / "inner.py").write_text("A = 2\n")


def add(folder):
    (folder / "acme_plugin" / "inner.abi3.so").write_text("elf")


def remove(folder):
    (folder / "acme_tools.py").unlink()


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (change, "  acme 1.0: acme_plugin/inner.py has changed\n"),
        (add, "  acme 1.0: acme_plugin/inner.abi3.so was added\n"),
        (remove, "  acme-tools 1.0: acme_tools.py is missing\n"),
    ],
)
def test_a_plugin_that_differs_from_its_lock_is_refused_before_the_start(site, job, ringfence, attack, told):
    done = ringfence("plugins", "lock", job)
    assert done.status == 0, done.err
    locked = json.loads(Path("job.lock.json").read_text())
    assert locked["plugins"] == {"acme": "acme", "optim": "ringfence"}
    assert set(locked["distributions"]["acme"]["files"]) == {*FILES, *_metadata("acme", points=True)}
    assert set(locked["distributions"]["acme-tools"]["files"]) == {"acme_tools.py", *_metadata("acme_tools")}
    prepare(read_job(job), Path())

    attack(site.folder)

    done = ringfence("train", job, "--out", "out")
    assert done.status == 2
    assert told in done.err
    assert "lock anew: ringfence plugins lock job.yaml" in done.err
    assert not Path("out").exists()
    done = ringfence("plugins", "lock", job)
    assert f"since the lock before:\n{told}" in done.out
    prepare(read_job(job), Path())


def test_without_a_lock_nobody_notices(site, job):
    change(site.folder)
    prepare(read_job(job), Path())


def test_a_plugin_that_a_flag_adds_is_named_unless_it_was_locked_with_it(site, job, ringfence):
    job.write_text(TRUSTED_JOB)
    assert ringfence("plugins", "lock", job).status == 0
    done = ringfence("train", job, "--plugin", "acme", "--out", "out")
    assert done.status == 2
    assert "  plugin 'acme', of acme 1.0, is not in the lock\n" in done.err
    assert "acme-tools 1.0, which plugin 'acme' brings, is not in the lock\n" in done.err
    assert ringfence("plugins", "lock", job, "--plugin", "acme").status == 0
    prepare(read_job(job, plugins=["acme"]), Path())
    prepare(read_job(job), Path())


def test_a_lock_is_written_where_it_is_asked_for(site, job, ringfence):
    assert ringfence("plugins", "lock", job, "--out", "elsewhere.json").status == 0
    assert not Path("job.lock.json").exists()
    assert json.loads(Path("elsewhere.json").read_text())["schema"] == 1
    done = ringfence("plugins", "lock", job, "--out", "no/such/folder.json")
    assert (done.status, "cannot be written" in done.err) == (2, True)


def test_what_cannot_be_digested_cannot_be_locked(site, job, ringfence):
    (site.folder / "acme_plugin" / "linked.py").symlink_to("/etc/hostname")
    done = ringfence("plugins", "lock", job)
    assert done.status == 2
    assert "  acme 1.0: acme_plugin/linked.py is a symbolic link, and none is followed\n" in done.err
    assert not Path("job.lock.json").exists()


def test_a_run_keeps_its_lock_and_is_held_to_it_when_it_is_resumed(job, ringfence):
    job.write_text(TRUSTED_JOB)
    assert ringfence("plugins", "lock", job).status == 0
    assert ringfence("train", job, "--out", "out", "--quiet").status == 0
    kept = Path("out/job.lock.json")
    assert kept.read_bytes() == Path("job.lock.json").read_bytes()
    locked = json.loads(kept.read_text())
    locked["distributions"]["torch"]["version"] = "1.0"
    kept.write_text(json.dumps(locked))
    done = ringfence("train", "--resume", "out", "--set", "steps=7")
    assert done.status == 2
    assert "is installed, and 1.0 is in the lock\n" in done.err
    shutil.copy(job, "other.yaml")
    done = ringfence("train", "other.yaml", "--resume", "out", "--set", "steps=7")
    assert done.status == 0, done.err
    assert (
        "there is no lock beside the job, so job.lock.json in the run's folder was not compared" in done.out
    )


def _metadata(name, *, points=False):
    return {
        f"{name}-1.0.dist-info/{file}" for file in ("METADATA", *(["entry_points.txt"] if points else []))
    }
