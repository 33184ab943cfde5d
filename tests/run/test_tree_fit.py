"""What targets are, as our own augmentation is told it."""

import pytest
import torch

from ringfence.engine.data import Dataset
from ringfence.job.job_file import check_job
from ringfence.job.yaml_document import parse_yaml
from ringfence.run.load_plugins import plan, with_target_kind
from ringfence.run.tree_fit import target_kind

JOB = """
model: cnn
data: mnist10k
steps: 1
plugins: [augment: {ops: [flip]}, optim: {algorithm: sgd, lr: 1}]
"""
IMAGES = torch.rand(4, 1, 8, 8)
KINDS = {
    "classes": (torch.arange(4) % 3, 3, None),
    "a class at each pixel": (torch.zeros(4, 8, 8, dtype=torch.int64), 3, "masks"),
    "a class at each token": (torch.zeros(4, 8, dtype=torch.int64), 3, None),
    "pictures of numbers": (torch.rand(4, 8, 8), None, None),
    "boxes": ({"boxes": torch.rand(4, 2, 4), "labels": torch.zeros(4, 2, dtype=torch.int64)}, None, "boxes"),
    "some other dict": ({"depth": torch.rand(4)}, None, None),
}


@pytest.mark.parametrize("name", KINDS)
def test_masks_and_boxes_are_told_to_our_augmentation_and_nothing_else_is(name):
    targets, classes, kind = KINDS[name]
    planned = plan(check_job(parse_yaml(JOB, "job.yaml")))

    assert target_kind(Dataset(IMAGES, targets, classes)) == kind
    told = with_target_kind(planned, kind)

    options = {item.spec.name: item.spec.options for item in told}
    assert options["augment"] == {"ops": ["flip"], **({"target_kind": kind} if kind else {})}
    assert "target_kind" not in options["optim"]
