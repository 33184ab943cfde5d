"""Losses of segmentation, sequences and embeddings, against sums by hand and torch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from ringfence.engine.task_losses import CTC, Cosine, Dice, InfoNCE


def test_dice_by_hand():
    outputs, targets = torch.randn(3, 4, 5, 6), torch.randint(0, 4, (3, 5, 6))
    chances = outputs.softmax(1)
    expected = []
    for sample in range(3):
        shares = []
        for c in range(4):
            there = (targets[sample] == c).float()
            overlap = 2 * (chances[sample, c] * there).sum() + 1
            shares.append(1 - overlap / (chances[sample, c].sum() + there.sum() + 1))
        expected.append(torch.stack(shares))
    table = torch.stack(expected)

    torch.testing.assert_close(Dice().per_sample(outputs, targets), table.mean(1))
    torch.testing.assert_close(Dice(background=False)(outputs, targets), table[:, 1:].mean())


def test_dice_leaves_out_what_does_not_count():
    outputs, targets = torch.randn(2, 3, 8), torch.randint(0, 3, (2, 8))
    kept = targets.clone()
    kept[:, 5:] = -100

    torch.testing.assert_close(Dice()(outputs, kept), Dice()(outputs[..., :5], targets[..., :5]))
    assert not torch.allclose(Dice()(outputs, kept), Dice()(outputs, targets))


def test_dice_of_labels_takes_each_by_itself():
    outputs, labels = torch.randn(3, 2, 4, 4), (torch.rand(3, 2, 4, 4) > 0.5).float()
    said = outputs.sigmoid()
    overlap = 2 * (said * labels).sum((2, 3)) + 0.5
    expected = 1 - overlap / (said.sum((2, 3)) + labels.sum((2, 3)) + 0.5)

    torch.testing.assert_close(Dice(smooth=0.5)(outputs, labels), expected.mean())


def test_dice_of_what_is_right_is_nearly_nothing():
    targets = torch.randint(0, 3, (2, 9))
    sure = 100 * functional.one_hot(targets, 3).movedim(-1, 1).float()

    assert Dice()(sure, targets) < 1e-6 < Dice()(-sure, targets)


def test_ctc_is_that_of_torch_with_and_without_lengths():
    outputs, targets = torch.randn(3, 12, 5), torch.randint(1, 5, (3, 4))
    lengths, of_outputs = torch.tensor([4, 2, 3]), torch.tensor([12, 9, 10])
    told = {"targets": targets, "lengths": lengths}
    logs = outputs.log_softmax(-1).transpose(0, 1)

    whole = functional.ctc_loss(logs, targets, torch.full((3,), 12), lengths)
    torch.testing.assert_close(CTC()(outputs, told), whole)
    cut = functional.ctc_loss(logs, targets, of_outputs, lengths)
    torch.testing.assert_close(CTC()({"logits": outputs, "lengths": of_outputs}, told), cut)
    assert not torch.allclose(whole, cut)


def test_a_target_too_long_for_its_outputs_counts_nothing_if_the_job_says_so():
    told = {"targets": torch.tensor([[1, 2, 3]]), "lengths": torch.tensor([3])}
    outputs = torch.randn(1, 2, 5)

    assert CTC()(outputs, told).isinf()
    assert CTC(zero_infinity=True)(outputs, told) == 0


def test_cosine_is_that_of_torch():
    outputs, targets = torch.randn(4, 6), torch.randn(4, 6)
    expected = nn.CosineEmbeddingLoss()(outputs, targets, torch.ones(4))

    torch.testing.assert_close(Cosine()(outputs, targets), expected)


def test_info_nce_by_hand_and_the_order_of_the_pair_does_not_matter():
    first, second = torch.randn(5, 8), torch.randn(5, 8)
    cosines = functional.cosine_similarity(first[:, None], second[None], dim=-1) / 0.2
    own = torch.arange(5)
    expected = (functional.cross_entropy(cosines, own) + functional.cross_entropy(cosines.T, own)) / 2

    loss = InfoNCE(temperature=0.2)
    torch.testing.assert_close(loss((first, second), None), expected)
    torch.testing.assert_close(loss({"a": second, "b": first}, None), expected)
    with pytest.raises(ValueError, match=r"takes two embeddings .* returned 3"):
        loss([first] * 3, None)


@pytest.mark.parametrize(
    ("loss", "targets", "told"),
    [
        (Dice(), torch.zeros(4, dtype=torch.int64), "class or labels at each position"),
        (Dice(), torch.zeros(4, 3), r"targets have shape \(4, 3\)"),
        (Dice(background=False), torch.zeros(4, 3, dtype=torch.int64), "leaves no class"),
        (CTC(), torch.zeros(4, 3), "a dict of 'targets'"),
        (Cosine(), torch.zeros(4), "needs vectors"),
    ],
)
def test_targets_that_do_not_fit_are_told(loss, targets, told):
    assert told.replace("\\", "") in loss.misfit(targets, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dice(smooth=0), "smooth is 0"),
        (lambda: CTC(blank=-1), "blank is -1"),
        (lambda: InfoNCE(temperature=0), "temperature is 0"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
