"""Several losses: each averaged by what it is a mean of, over the batches of a step as of an evaluation."""

import pytest
import torch
from engine_helpers import config, convnet, hooks_of, image_data, run, same_weights, sgd
from torch.nn import functional

from ringfence.engine.loss import Term
from ringfence.engine.loss_sum import LossSum
from ringfence.engine.losses import MSE, CrossEntropy, Focal
from ringfence.hooks.errors import DataError
from ringfence.hooks.types import derive_seed

WEIGHTS = [0.25, 3.0, 1.0, 0.5]
BOTH = LossSum(
    (
        Term("cross_entropy", CrossEntropy(class_weights=WEIGHTS)),
        Term("focal", Focal(gamma=1.0), 0.5),
    )
)


def test_terms_take_the_parts_that_they_name():
    outputs = {"labels": torch.randn(4, 3), "depth": torch.randn(4, 2)}
    targets = {"labels": torch.tensor([0, 1, 2, 1]), "depth": torch.randn(4, 2)}
    loss = LossSum(
        (
            Term("cross_entropy", CrossEntropy(), 1.0, "labels", "labels"),
            Term("mse", MSE(), 0.5, "depth", "depth"),
        )
    )

    expected = functional.cross_entropy(outputs["labels"], targets["labels"]) + 0.5 * functional.mse_loss(
        outputs["depth"], targets["depth"]
    )
    assert loss(outputs, targets) == expected
    torch.testing.assert_close(loss.per_sample(outputs, targets).mean(), expected)
    as_pair = LossSum((Term("", CrossEntropy(), 1.0, 1, 0),))
    pair = [outputs["depth"], outputs["labels"]]
    assert as_pair(pair, [targets["labels"]]) == functional.cross_entropy(pair[1], targets["labels"])


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ({"logits": torch.zeros(1)}, "output 'depth': the model returned a dict of logits"),
        ([torch.zeros(1)], "output 'depth': the model returned a list of 1"),
        (torch.zeros(1, 2), r"output 'depth': the model returned one tensor of shape \(1, 2\), which has no"),
    ],
)
def test_a_part_that_there_is_not_is_told_with_those_that_there_are(outputs, told):
    with pytest.raises(DataError, match=told):
        LossSum((Term("", MSE(), 1.0, "depth"),))(outputs, torch.zeros(1))


def accumulated(loss, outputs, targets, parts):
    """Return the gradient of a step of several batches, as the loop makes it."""
    outputs = outputs.clone().requires_grad_()
    sizes = [part.stop - part.start for part in parts]
    losses, weights = loss.over_step([targets[part] for part in parts], sizes)
    for part, each, weight in zip(parts, losses, weights, strict=True):
        if weight:
            (each(outputs[part], targets[part]) / (sum(weights) / weight)).backward()
    return outputs.grad


def test_over_a_step_each_term_has_the_mean_of_all_its_batches():
    outputs = torch.randn(7, 4, 3, dtype=torch.float64)
    targets = torch.randint(0, 4, (7, 3))
    targets[:2, 1:] = -100
    targets[4] = -100
    whole = outputs.clone().requires_grad_()
    BOTH(whole, targets).backward()

    found = accumulated(BOTH, outputs, targets, [slice(0, 3), slice(3, 6), slice(6, 7)])

    torch.testing.assert_close(found, whole.grad)
    by_samples = outputs.clone().requires_grad_()
    for part in (slice(0, 3), slice(3, 6), slice(6, 7)):
        (BOTH(by_samples[part], targets[part]) * (part.stop - part.start) / 7).backward()
    assert not torch.allclose(by_samples.grad, whole.grad)


def test_a_batch_of_which_a_term_counts_nothing_is_of_the_others_alone():
    outputs, targets = torch.randn(4, 3, 2), torch.tensor([[0, 1], [2, 1], [-100, -100], [-100, -100]])

    found = accumulated(LossSum((Term("", CrossEntropy()),)), outputs, targets, [slice(0, 2), slice(2, 4)])

    assert found.isfinite().all()
    assert not found[2:].any()
    whole = outputs.clone().requires_grad_()
    functional.cross_entropy(whole, targets).backward()
    torch.testing.assert_close(found, whole.grad)


def plain(model, data, *, accumulate, by_samples=False):
    """Train in plain torch: a term's mean is shared by what its batches count among those of the step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    weights, train = torch.tensor(WEIGHTS), data.train
    model.train()
    torch.manual_seed(derive_seed(7, "run"))
    for epoch in range(1):
        generator = torch.Generator().manual_seed(derive_seed(7, "order", epoch))
        for group in torch.randperm(len(train), generator=generator).split(8 * accumulate):
            optimizer.zero_grad()
            parts = group.split(8)
            counts = [float(weights.double()[train.targets[part]].sum()) for part in parts]
            for part, count in zip(parts, counts, strict=True):
                outputs, targets = (
                    model((train.inputs[part].float() / 255 - 0.4) / 0.3),
                    train.targets[part],
                )
                loss = functional.cross_entropy(outputs, targets, weights)
                if len(parts) > 1 and not by_samples:
                    loss = loss * (count / sum(counts) * (len(group) / len(part)))
                loss = loss + Focal(1.0)(outputs, targets) * 0.5
                (loss / (len(group) / len(part)) if len(parts) > 1 else loss).backward()
            optimizer.step()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_weights_of_several_losses_are_those_of_the_plain_loop(accumulate):
    data = image_data()
    ours, other, wrong = convnet(), convnet(), convnet()

    result = run(ours, data, hooks_of(sgd()), config(epochs=1, grad_accum_steps=accumulate, loss=BOTH))

    plain(other, data, accumulate=accumulate)
    plain(wrong, data, accumulate=accumulate, by_samples=True)
    assert same_weights(ours, other)
    assert same_weights(ours, wrong) == (accumulate == 1)
    assert result.final_metrics["loss"] == pytest.approx(
        result.final_metrics["loss_cross_entropy"] + 0.5 * result.final_metrics["loss_focal"]
    )
