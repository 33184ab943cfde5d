"""``ringfence new`` makes a folder whose job trains as it is, and refuses what would be lost."""

import json

import pytest

from ringfence.cli.new_job import make_job
from ringfence.hooks.errors import JobError
from ringfence.job.job_file import read_job
from ringfence.run.prepare import prepare


def test_the_job_is_whole_and_fits_its_model_and_data(tmp_path):
    folder = tmp_path / "my shapes"
    told = make_job("my shapes", folder)
    assert told[1] == f"  cd '{folder}'"
    job = read_job(folder / "job.yaml")
    prepared = prepare(job, job.job.base(folder / "job.yaml"))
    assert prepared.setup.data.train.num_classes == 3
    assert [item.spec.name for item in prepared.plugins] == ["gradclip", "optim"]
    assert json.loads((folder / "job.schema.json").read_text())["title"] == "ringfence job"


@pytest.mark.parametrize("name", ["", "../up", "-o", "a\nb", "{{x}}", "x" * 65])
def test_a_name_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(JobError, match="cannot be used; write at most 64 letters"):
        make_job(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "job.yaml").write_text("mine")
    with pytest.raises(JobError, match="is not empty; name a new folder with --out"):
        make_job("x", tmp_path)
    assert (tmp_path / "job.yaml").read_text() == "mine"
