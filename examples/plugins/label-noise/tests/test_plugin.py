"""The plugin does what it is for, and works wherever ringfence does."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from ringfence import Batch, PluginRaisedError, Report, StepInfo
from ringfence.testing import Conformance, StartedPlugin, StartPlugin, samples

CLASSES = 4


class TestLabelNoise(Conformance):
    plugin = "label-noise"
    options = {"report_every": 1, "pictures": 4}  # noqa: RUF012 - read only
    # One test runs it without a sandbox too; so say this of your own code only.
    trusted = True


class TestForgetting(Conformance):
    plugin = "label-noise"
    options = {"report_every": 2, "rank_by": "forgetting", "pictures": 0}  # noqa: RUF012 - read only


def batch(indices: list[int], labels: list[int] | torch.Tensor) -> Batch:
    """Return a batch whose pictures tell the index of each sample by their grey."""
    grey = torch.tensor(indices, dtype=torch.float32) / 255
    targets = labels if isinstance(labels, torch.Tensor) else torch.tensor(labels)
    return Batch(grey.view(-1, 1, 1, 1).repeat(1, 1, 8, 8), targets, torch.tensor(indices), CLASSES)


def saying(classes: list[int], sure: float = 2.0) -> torch.Tensor:
    """Return outputs that are largest, by ``sure``, for these classes."""
    return functional.one_hot(torch.tensor(classes), CLASSES).float() * sure


def look(
    plugin: StartedPlugin, given: Batch, outputs: torch.Tensor, step: int = 0, **rest: Any
) -> Report | None:
    report = plugin.call(
        "forward", batch=given, outputs=outputs, loss=1.0, step=StepInfo(step, **rest)
    ).result
    assert report is None or isinstance(report, Report)
    return report


def told(folder: Path) -> list[dict[str, str]]:
    with (folder / "suspects.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("rank_by", "score"), [("margin", 1.5), ("loss", None), ("forgetting", None)])
def test_the_sample_that_the_model_contradicts_is_the_first(
    ringfence_plugin: StartPlugin, tmp_path: Path, rank_by: str, score: float | None
) -> None:
    options = {"rank_by": rank_by, "share": 0.25, "report_every": 2, "folder": str(tmp_path)}
    plugin = ringfence_plugin("label-noise", options, settings={"write": [str(tmp_path)]})
    given = batch([5, 3, 9, 0], [0, 1, 2, 3])

    first = look(plugin, given, saying([0, 1, 1, 3], sure=1.0))
    second = look(plugin, given, saying([0, 1, 1, 3], sure=2.0), step=1)

    assert first is None
    assert second is not None
    assert second.scalars["seen"] == 4
    assert second.scalars["suspects"] == 1
    assert second.scalars["disagree"] == 1
    (row,) = told(tmp_path)
    assert (row["index"], row["label"], row["guess"]) == ("9", "2", "1")
    assert float(row["mean_margin"]) == pytest.approx(-1.5)
    if score is not None:
        assert second.scalars["threshold"] == pytest.approx(score)
    assert not (tmp_path / "suspects.csv.new").exists()


def test_the_sums_are_those_of_the_losses(ringfence_plugin: StartPlugin, tmp_path: Path) -> None:
    options = {"share": 0.5, "report_every": 3, "folder": str(tmp_path)}
    plugin = ringfence_plugin("label-noise", options, settings={"write": [str(tmp_path)]})
    labels = [0, 1, 2, 3]
    outputs = [torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]

    for step, each in enumerate(outputs):
        look(plugin, batch([0, 1, 2, 3], labels), each, step=step)

    targets = torch.tensor(labels)
    losses = torch.stack(
        [functional.cross_entropy(each, targets, reduction="none") for each in outputs]
    ).mean(0)
    for row in told(tmp_path):
        assert float(row["mean_loss"]) == pytest.approx(losses[int(row["index"])].item(), rel=1e-6)
        assert row["seen"] == "3"


def test_what_is_forgotten_counts_and_what_was_never_learned_counts_more(
    ringfence_plugin: StartPlugin, tmp_path: Path
) -> None:
    options = {"rank_by": "forgetting", "share": 0.5, "report_every": 5, "folder": str(tmp_path)}
    plugin = ringfence_plugin("label-noise", options, settings={"write": [str(tmp_path)]})
    # By sample: always right, forgotten twice, forgotten once, never right.
    says = [[0, 1, 2, 0], [0, 0, 2, 0], [0, 1, 2, 0], [0, 0, 1, 0], [0, 1, 2, 0]]

    for step, classes in enumerate(says):
        look(plugin, batch([0, 1, 2, 3], [0, 1, 2, 3]), saying(classes), step=step)

    rows = told(tmp_path)
    assert [row["index"] for row in rows] == ["3", "1"]
    assert [row["forgotten"] for row in rows] == ["0", "2"]
    assert [row["learned"] for row in rows] == ["0", "1"]


def test_mixed_labels_and_outputs_that_are_not_finite_are_left_out(ringfence_plugin: StartPlugin) -> None:
    plugin = ringfence_plugin("label-noise", {"report_every": 1})
    soft = functional.one_hot(torch.tensor([0, 1, 2]), CLASSES).float()
    soft[1] = torch.tensor([0.3, 0.7, 0, 0])
    outputs = saying([0, 1, 2])
    outputs[2, 0] = math.inf

    report = look(plugin, batch([0, 1, 2], soft), outputs)

    assert report is not None
    assert report.scalars["seen"] == 1


def test_the_last_step_brings_a_report(ringfence_plugin: StartPlugin) -> None:
    plugin = ringfence_plugin("label-noise", {"report_every": 100})

    reports = [look(plugin, batch([0], [0]), saying([0]), step=step, steps_total=7) for step in range(7)]

    assert [report is not None for report in reports] == [False] * 6 + [True]


def test_the_sheet_shows_the_suspects_as_the_model_saw_them(ringfence_plugin: StartPlugin) -> None:
    plugin = ringfence_plugin("label-noise", {"report_every": 1, "share": 0.5, "pictures": 1})

    report = look(plugin, batch([10, 200], [0, 1]), saying([0, 2]))

    assert report is not None
    sheet = report.images["suspects"]
    assert sheet.dtype == torch.uint8
    assert sheet.shape[2] == 3
    # The picture of sample 200, enlarged, and captions on white below it.
    assert sheet[10, 10].tolist() == [200, 200, 200]
    captions = sheet[66:]
    assert captions.min() < 100 < captions.max() == 255


def test_counts_of_the_histogram_are_of_all_samples(ringfence_plugin: StartPlugin) -> None:
    plugin = ringfence_plugin("label-noise", {"report_every": 1})

    report = look(plugin, samples.batch(32), samples.outputs(32))

    assert report is not None
    histogram = report.histograms["scores"]
    assert sum(histogram.counts) == 32
    assert list(histogram.edges) == sorted(set(histogram.edges))
    assert report.scalars["suspects"] == 2


def test_a_job_without_classes_is_told(ringfence_plugin: StartPlugin) -> None:
    plugin = ringfence_plugin("label-noise")
    given = Batch(torch.zeros(2, 3), torch.zeros(2, 1), torch.tensor([0, 1]), None)

    with pytest.raises(PluginRaisedError, match="needs one output for each of at least two classes"):
        look(plugin, given, torch.zeros(2, 1))
