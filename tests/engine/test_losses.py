"""Losses of classes at positions: torch's numbers, averaged by what counts."""

import pytest
import torch
from engine_helpers import config, hooks_of, plain_loop, run, same_weights, sgd
from torch import nn
from torch.nn import functional

from ringfence.engine.data import Data, Dataset
from ringfence.engine.losses import BCE, CrossEntropy, Focal
from ringfence.engine.objective import Objective
from ringfence.hooks.errors import DataError

WEIGHTS = [0.5, 2.0, 1.0, 3.0, 0.25]


def positions(*, last=False):
    """Return logits of 5 classes at (3, 4) positions of 6 samples and their classes, some not counted."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(6, 5, 3, 4, generator=generator)
    targets = torch.randint(0, 5, (6, 3, 4), generator=generator)
    targets[torch.rand(6, 3, 4, generator=generator) < 0.3] = -100
    targets[2] = -100
    return (outputs.movedim(1, -1).contiguous() if last else outputs), targets


@pytest.mark.parametrize(
    "options", [{}, {"class_weights": WEIGHTS}, {"label_smoothing": 0.1}, {"ignore_index": 2}]
)
def test_cross_entropy_over_positions_is_that_of_torch(options):
    outputs, targets = positions()
    targets = targets.where(targets >= 0, 1) if "ignore_index" in options else targets
    how = {key: torch.tensor(v) if key == "class_weights" else v for key, v in options.items()}
    how["weight"] = how.pop("class_weights", None)

    loss = CrossEntropy(**options)

    assert torch.equal(loss(outputs, targets), functional.cross_entropy(outputs, targets, **how))


def test_classes_that_come_last_are_taken_as_the_rows_that_language_models_are_trained_on():
    outputs, targets = positions(last=True)
    loss = CrossEntropy(class_dim=-1)

    expected = functional.cross_entropy(outputs.view(-1, 5), targets.view(-1))
    assert torch.equal(loss(outputs, targets), expected)
    torch.testing.assert_close(loss.per_sample(outputs, targets), CrossEntropy().per_sample(*positions()))
    torch.testing.assert_close(Focal(class_dim=-1)(outputs, targets), Focal()(*positions()))


@pytest.mark.parametrize("make", [CrossEntropy, Focal, lambda: CrossEntropy(class_weights=WEIGHTS)])
def test_means_of_batches_of_unequal_counts_are_averaged_to_the_mean_of_all(make):
    outputs, targets = positions()
    loss = make()
    parts = [slice(0, 2), slice(2, 3), slice(3, 6)]
    weights = [loss.weight(targets[part]) for part in parts]
    means = [loss(outputs[part], targets[part]) if w else 0 for part, w in zip(parts, weights, strict=True)]

    whole = sum(w * mean for w, mean in zip(weights, means, strict=True)) / sum(weights)
    by_samples = sum(
        (p.stop - p.start) * mean for p, mean in zip(parts, means, strict=True)
    ) / 6  # fmt: skip

    assert weights[1] == 0
    torch.testing.assert_close(whole, loss(outputs, targets))
    assert abs(by_samples - whole) > 0.01, "samples that count unequally give the same mean"


@pytest.mark.parametrize("make", [CrossEntropy, Focal])
def test_a_batch_weighs_its_samples_only_where_all_count(make):
    classes, at_positions = torch.tensor([0, 1, 2]), torch.tensor([[0, -100], [1, 2]])

    assert make().is_by_sample(classes)
    assert make().weight(classes) == 3
    assert not make().is_by_sample(at_positions)
    assert make().weight(at_positions) == 3
    assert not make(ignore_index=1).is_by_sample(classes)
    assert make(ignore_index=1).weight(classes) == 2
    assert make().is_by_sample(torch.rand(3, 4))


@pytest.mark.parametrize("make", [CrossEntropy, Focal])
def test_the_loss_of_a_sample_is_the_mean_over_its_positions_that_count(make):
    outputs, targets = positions()

    losses = make().per_sample(outputs, targets)

    assert losses[2] == 0
    for place in (0, 1, 3, 4, 5):
        torch.testing.assert_close(
            losses[place], make()(outputs[place : place + 1], targets[place : place + 1])
        )


@pytest.mark.parametrize("make", [CrossEntropy, Focal, lambda: CrossEntropy(class_weights=WEIGHTS)])
def test_a_batch_of_which_nothing_counts_teaches_nothing(make):
    outputs = torch.randn(2, 5, 3, requires_grad=True)

    make()(outputs, torch.full((2, 3), -100)).backward()

    assert torch.equal(outputs.grad, torch.zeros(2, 5, 3))


def test_labels_at_positions_are_weighed_by_their_label():
    outputs, labels = torch.randn(4, 2, 3, 3), (torch.rand(4, 2, 3, 3) > 0.5).float()
    weights = torch.tensor([0.5, 4.0]).view(2, 1, 1)

    found = BCE([0.5, 4.0])(outputs, labels)

    assert found == functional.binary_cross_entropy_with_logits(outputs, labels, pos_weight=weights)
    assert BCE([0.5, 4.0]).misfit(labels, None) == ""


@pytest.mark.parametrize(
    ("loss", "shape", "told"),
    [
        (CrossEntropy(), (2, 7, 5), r"shape \(2, 7, 5\) .* needs \(2, 5, 7\).* last: .* class_dim: -1$"),
        (CrossEntropy(class_dim=-1), (2, 5, 7), r"needs \(2, 7, 5\).* second: .* class_dim: 1$"),
        (Focal(), (2, 4, 7), r"needs \(2, 5, 7\), .* Change the model's last layer"),
    ],
)
def test_outputs_with_the_classes_elsewhere_are_told_the_option(loss, shape, told):
    targets = torch.zeros(2, 7, dtype=torch.int64)

    with pytest.raises(DataError, match=told):
        Objective(loss, "accuracy").check_outputs(torch.zeros(shape), targets, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda: CrossEntropy(class_dim=2), "class_dim is 2"), (lambda: Focal(class_dim=0), "class_dim is 0")],
)
def test_classes_that_lie_nowhere_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def tokens(count, seed):
    """Return samples of six tokens of three numbers, and a class of each; few or many of them count."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, 3, generator=generator)
    targets = torch.randint(0, 4, (count, 6), generator=generator)
    lengths = torch.randint(0, 7, (count,), generator=generator)
    return inputs, targets.where(torch.arange(6) < lengths[:, None], -100)


def token_model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))


def as_rows(outputs, targets):
    return functional.cross_entropy(outputs.view(-1, 4), targets.view(-1))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_weights_with_uneven_counts_of_tokens_are_those_of_the_plain_loop(accumulate):
    """The mean is over all tokens of a step that count, whatever batches they are in."""
    # 50 samples in batches of 8: the last batch and the last step are smaller.
    data = Data(Dataset(*tokens(50, 0), 4), Dataset(*tokens(20, 1), 4))
    ours, plain, wrong = token_model(), token_model(), token_model()
    settings = config(
        grad_accum_steps=accumulate, loss=CrossEntropy(class_dim=-1), epochs=2, eval_batch_size=1
    )

    result = run(ours, data, hooks_of(sgd()), settings)

    how = {"epochs": 2, "batch_size": 8, "accumulate": accumulate, "criterion": as_rows}
    optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9)  # noqa: E731
    plain_loop(plain, data, optimizer, **how, weight=lambda targets: float((targets != -100).sum()))
    plain_loop(wrong, data, optimizer, **how)
    assert same_weights(ours, plain)
    assert same_weights(ours, wrong) == (accumulate == 1)
    # Of some samples no token counts, and each is a batch of its own there.
    assert (data.test.targets == -100).all(1).any()
    with torch.no_grad():
        outputs, targets = ours.eval()(data.test.inputs), data.test.targets
    assert result.final_metrics["loss"] == pytest.approx(as_rows(outputs.double(), targets).item(), rel=1e-6)
    right = (outputs.argmax(-1) == targets)[targets != -100]
    assert result.final_metrics["accuracy"] == pytest.approx(right.double().mean().item())
