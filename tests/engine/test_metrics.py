"""Builtin metrics, at positions and with options, against counts by hand and plain torchmetrics."""

import math

import pytest
import torch
from torch.nn import functional
from torchmetrics.classification import BinaryAUROC, MulticlassAUROC

from ringfence.engine.metrics import METRICS, TargetForm

FORM = TargetForm(num_classes=4, at_positions=True)


def positions():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(12, 4, 5, generator=generator)
    targets = torch.randint(0, 4, (12, 5), generator=generator)
    targets[torch.rand(12, 5, generator=generator) < 0.3] = -100
    return outputs, targets


def measured(name, outputs, targets, form=FORM, batch_size=5, **options):
    metric = METRICS[name]
    state = metric.build(form, **options)
    for begin in range(0, len(outputs), batch_size):
        part = slice(begin, begin + batch_size)
        metric.update(state, outputs[part], targets[part])
    return metric.value(state)


def counts(outputs, targets):
    """Return of each class: right ones, those that were said, those that were there."""
    counted = targets != -100
    said, there = outputs.argmax(1)[counted], targets[counted]
    return torch.tensor(
        [[((said == c) & (there == c)).sum(), (said == c).sum(), (there == c).sum()] for c in range(4)]
    ).double()


def test_metrics_at_positions_by_hand():
    outputs, targets = positions()
    right, said, there = counts(outputs, targets).unbind(1)
    expected = {
        "accuracy": right.sum() / there.sum(),
        "iou": (right / (said + there - right)).mean(),
        "dice": (2 * right / (said + there)).mean(),
        "precision": (right / said).mean(),
        "recall": (right / there).mean(),
    }

    for name, value in expected.items():
        assert measured(name, outputs, targets) == pytest.approx(value.item(), rel=1e-5)
    everything = measured("accuracy", outputs, targets.where(targets >= 0, 0))
    assert everything != pytest.approx(expected["accuracy"].item(), rel=1e-3)


def test_perplexity_is_e_to_the_mean_cross_entropy_of_all_tokens():
    outputs, targets = positions()

    expected = functional.cross_entropy(outputs.double(), targets).exp().item()
    assert measured("perplexity", outputs, targets) == pytest.approx(expected, rel=1e-12)
    unsure = torch.full((1, 4, 1), -2000.0)
    unsure[0, 0] = 0
    assert measured("perplexity", unsure, torch.tensor([[1]])) == math.inf
    assert math.isnan(measured("perplexity", outputs, torch.full((12, 5), -100)))


def test_options_choose_the_average_and_how_many_may_be_right():
    outputs, targets = positions()
    right, _, there = counts(outputs, targets).unbind(1)

    micro = measured("recall", outputs, targets, average="micro")
    assert micro == pytest.approx((right.sum() / there.sum()).item())
    assert micro != measured("recall", outputs, targets)
    assert measured("accuracy", outputs, targets, top_k=4) == 1


def test_areas_under_curves_are_of_probabilities_whatever_the_logits_of_a_batch_look_like():
    outputs, targets = torch.rand(40, 3), torch.randint(0, 3, (40,))
    exact = MulticlassAUROC(3)(outputs.double().softmax(1), targets).item()
    assert measured("auroc", outputs, targets, TargetForm(3), batch_size=7) == pytest.approx(exact, rel=1e-6)

    labels = (torch.rand(40, 2) > 0.5).float()
    logits = torch.cat([torch.rand(20, 2), 4 * torch.randn(20, 2)])
    exact = BinaryAUROC()(logits.double().sigmoid().flatten(), labels.long().flatten()).item()
    found = measured("binary_auroc", logits, labels, TargetForm(), batch_size=10)
    assert found == pytest.approx(exact, rel=1e-6)
    mixed = BinaryAUROC()
    for part in (slice(0, 10), slice(10, 20), slice(20, 30), slice(30, 40)):
        mixed.update(logits[part].flatten(), labels[part].long().flatten())
    assert mixed.compute().item() != pytest.approx(exact, rel=1e-3), "torchmetrics guesses right by itself"


def test_labels_by_hand():
    outputs, labels = torch.randn(30, 2), (torch.rand(30, 2) > 0.6).float()
    said, there = outputs > 0, labels > 0.5
    hits = (said & there).sum().item()

    assert measured("binary_precision", outputs, labels, TargetForm()) == pytest.approx(
        hits / said.sum().item()
    )
    assert measured("binary_recall", outputs, labels, TargetForm()) == pytest.approx(
        hits / there.sum().item()
    )


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.classes])
def test_a_batch_of_which_nothing_counts_changes_no_metric_of_classes(name):
    outputs, targets = torch.randn(6, 8, 5), torch.randint(0, 8, (6, 5))
    form = TargetForm(8, at_positions=True)
    more, nothing = torch.cat([outputs, torch.randn(2, 8, 5)]), torch.cat([targets, torch.full((2, 5), -100)])

    expected = measured(name, outputs, targets, form, batch_size=2)
    assert measured(name, more, nothing, form, batch_size=2) == pytest.approx(expected)
    assert math.isnan(measured(name, outputs, torch.full((6, 5), -100), form))
