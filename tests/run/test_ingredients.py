"""What a job names of its model is found, or told by key and line before anything starts."""

import numpy as np
import pytest
from PIL import Image

from ringfence.hooks.errors import DataError, JobError
from ringfence.job.job_file import check_job, read_job
from ringfence.job.yaml_document import parse_yaml
from ringfence.run.ingredients import build, check_names

JOB = """\
model: {name: mlp, hidden: [8]}
data: mnist10k
steps: 2
batch_size: 32
plugins: [{optim: {lr: 0.1}}]
"""


def setup_of(*lines, tmp_path):
    return build(check_job(parse_yaml(JOB + "\n".join(lines), "job.yaml")), tmp_path)


def test_patterns_freeze_what_they_name(tmp_path):
    names = {name for name, p in setup_of(tmp_path=tmp_path).model.named_parameters() if p.requires_grad}
    first = min(names).partition(".")[0]
    setup = setup_of("freeze:", f"  - '{first}.*'", tmp_path=tmp_path)
    assert setup.frozen
    assert setup.frozen == {name for name in names if name.startswith(first)}
    left = {name for name, p in setup.model.named_parameters() if p.requires_grad}
    assert left == names - setup.frozen


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["freeze: ['hiden.*']"], r"job.yaml:6:10: freeze\[0\]: 'hiden.\*' matches no parameter"),
        (
            ["freeze:", "  - '*.weight'", "  - nope"],
            r"job.yaml:8:5: freeze\[1\]: 'nope' matches no .*known: ",
        ),
        (["freeze: ['*']"], r"job.yaml:6:9: freeze: leaves no parameter to train"),
        (["freeze: hidden"], r"job.yaml:6:9: freeze: expected a list, .*write 'freeze: \[…\]'"),
    ],
)
def test_a_pattern_that_freezes_nothing_or_all_is_refused_at_its_line(tmp_path, lines, told):
    with pytest.raises(JobError, match=told):
        setup_of(*lines, tmp_path=tmp_path)


PHOTO_JOB = """\
model: cnn
data: {name: folder, path: photos}
steps: 2
batch_size: 2
plugins: [{optim: {lr: 0.1}}]
"""


def build_of_photos(tmp_path, classes, *, sets=(), options=""):
    for name in classes:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(tmp_path / "photos" / name / f"{i}.png")
    job = tmp_path / "job.yaml"
    job.write_text(PHOTO_JOB.replace("path: photos", f"path: photos{options}"))
    return build(read_job(job, sets), tmp_path)


def test_data_of_one_class_are_told_by_their_path_and_the_class(tmp_path):
    assert build_of_photos(tmp_path / "both", ["cats", "dogs"])
    with pytest.raises(
        DataError, match=r"job.yaml:2:7: data: 'photos' have one class only, 'cats'; there must"
    ):
        build_of_photos(tmp_path / "one", ["cats"])


@pytest.mark.parametrize(
    ("sets", "options", "place"),
    [
        (["data.size=1"], "", "--set data.size=1: data.size"),
        ([], ", size: 1", r"job.yaml:2:42: data.size"),
    ],
)
def test_a_size_that_is_too_small_for_the_model_is_told_where_it_was_set(tmp_path, sets, options, place):
    with pytest.raises(DataError, match=f"{place}: model 'cnn' takes .*at least 8x8 pixels; .* has 1x1$"):
        build_of_photos(tmp_path, ["cats", "dogs"], sets=sets, options=options)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["loss:", "  - mse", "  - {name: focal, gama: 1}"], r"yaml:8:19: loss\[1\].gama: unknown option"),
        (["loss: [mse, focl]"], r"job.yaml:6:13: loss\[1\]: 'focl' is unknown; did you mean 'focal'"),
        (["loss: {name: sum, terms: [l1, {name: l1, weight: -1}]}"], r":6:50: loss.terms\[1\].weight: exp"),
        (["metrics: [f1, {name: iuo}]"], r"job.yaml:6:22: metrics\[1\].name: 'iuo' is unknown"),
        (["metric: {name: iou, average: all}"], r"job.yaml:6:30: metric.average: expected 'macro'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_losses_and_metrics_is_told_at_its_place(tmp_path, lines, told):
    with pytest.raises(JobError, match=told):
        raise_problems(lines)


def raise_problems(lines):
    job_file = check_job(parse_yaml(JOB + "\n".join(lines), "job.yaml"))
    if problems := check_names(job_file):
        raise job_file.error(problems)
