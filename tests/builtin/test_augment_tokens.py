"""Operations on tokens: what they may not touch, how often and how far they change the rest, and mixing."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from ringfence import Batch, StepInfo
from ringfence.builtin.augment import Augment, token_names
from ringfence.builtin.augment.draw import Draw
from ringfence.builtin.augment.plugin import TOKEN_OPS
from ringfence.builtin.augment.tokens import TokenMixUp, TokenSwap
from ringfence.plugins.result_checks import check_batch

pytestmark = pytest.mark.usefixtures("one_thread")

CLS, PAD, MASK = 1, 0, 3
COUNT, LENGTH = 64, 30


def batch_of(seed=0, **more):
    """Return sentences: [CLS], 4 to 28 words that are all different, padding."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, LENGTH, (COUNT, 1), generator=generator)
    words = torch.stack([torch.randperm(900, generator=generator)[:LENGTH] + 100 for _ in range(COUNT)])
    mask = torch.arange(LENGTH) < lengths
    ids = torch.where(mask, words, PAD)
    ids[:, 0] = CLS
    inputs = {"input_ids": ids, "attention_mask": mask.long(), **more}
    return Batch(inputs, torch.randint(0, 3, (COUNT,), generator=generator), torch.arange(COUNT), 3)


def run(ops, batch, number=0):
    result = Augment(ops).forward(batch, StepInfo(number, seed=7)) or batch
    check_batch(result, batch)
    return result


def test_they_are_named_and_each_says_its_source():
    assert token_names() == ("token_dropout", "token_swap", "token_mixup") == tuple(TOKEN_OPS)
    for cls in TOKEN_OPS.values():
        assert "Source:" in cls.__doc__
        assert "``p`` is of a" in cls.__doc__


def test_dropout_replaces_words_with_its_probability_and_nothing_else():
    batch = batch_of()
    before = batch.inputs["input_ids"].clone()
    words = (batch.inputs["attention_mask"] == 1) & (before != CLS)
    dropped = 0
    for number in range(20):
        ids = run([{"token_dropout": {"id": MASK, "p": 0.2, "keep": [CLS]}}], batch, number).inputs[
            "input_ids"
        ]
        changed = ids != before
        assert (ids[changed] == MASK).all()
        assert not (changed & ~words).any()
        dropped += int(changed.sum())
    assert torch.equal(batch.inputs["input_ids"], before)
    assert stats.binomtest(dropped, 20 * int(words.sum()), 0.2).pvalue > 1e-3


def test_without_keep_or_mask_all_that_there_is_may_be_replaced():
    batch = batch_of()
    ids = run([{"token_dropout": {"id": MASK, "p": 1}}], batch).inputs["input_ids"]
    assert torch.equal(ids == MASK, batch.inputs["attention_mask"] == 1)
    alone = Batch(batch.inputs["input_ids"], batch.targets, batch.indices, 3)
    assert run([{"token_dropout": {"id": MASK, "p": 1}}], alone).inputs.eq(MASK).all()


@pytest.mark.parametrize("distance", [1, 3])
def test_swap_moves_words_by_no_more_than_the_distance_and_others_not_at_all(distance):
    batch = batch_of()
    before = batch.inputs["input_ids"]
    furthest = 0
    for number in range(10):
        ops = [{"token_swap": {"distance": distance, "keep": [CLS]}}]
        ids = run(ops, batch, number).inputs["input_ids"]
        held = (batch.inputs["attention_mask"] == 0) | (before == CLS)
        assert torch.equal(ids[held], before[held])
        assert torch.equal(ids.sort(1).values, before.sort(1).values)
        for old, new, fixed in zip(before, ids, held, strict=True):
            place = {word: i for i, word in enumerate(old[~fixed].tolist())}
            moves = [abs(place[word] - i) for i, word in enumerate(new[~fixed].tolist())]
            furthest = max(furthest, *moves)
    assert furthest == distance


def test_swap_equals_the_papers_order_written_for_one_sentence():
    ids = torch.arange(12)[None] + 50
    noise = Draw(StepInfo(4)).uniform(0, 4, 1, 12)[0]
    expected = [50 + i for i in sorted(range(12), key=lambda i: i + float(noise[i]))]
    got = TokenSwap().apply(ids, torch.ones_like(ids, dtype=torch.bool), Draw(StepInfo(4)))
    assert got[0].tolist() == expected != ids[0].tolist()


def test_embeddings_masks_and_targets_are_mixed_alike():
    batch = batch_of()
    embeddings = torch.randn(COUNT, LENGTH, 4, generator=torch.Generator().manual_seed(1))
    mask = batch.inputs["attention_mask"]
    result = run(
        ["token_mixup"], Batch({"e": embeddings, "attention_mask": mask}, batch.targets, batch.indices, 3)
    )
    draw = Draw(StepInfo(0, seed=7))
    weight, partner = draw.beta(1.0, 1), draw.permutation(COUNT)
    hot = torch.nn.functional.one_hot(batch.targets, 3).float()
    assert torch.allclose(
        result.inputs["e"], weight * embeddings + (1 - weight) * embeddings[partner], atol=1e-6
    )
    assert torch.allclose(result.targets, weight * hot + (1 - weight) * hot[partner], atol=1e-6)
    assert torch.equal(result.inputs["attention_mask"], mask | mask[partner])
    wrong = weight * embeddings + (1 - weight) * embeddings.roll(1, 0)
    assert not torch.allclose(result.inputs["e"], wrong, atol=1e-2)


def test_samples_that_are_not_mixed_keep_their_masks():
    batch = batch_of(e=torch.randn(COUNT, LENGTH, 4))
    op = TokenMixUp(p=0.5, per_sample=True)
    result = op.change(batch, Draw(StepInfo(1)))
    same = (result.inputs["e"] == batch.inputs["e"]).flatten(1).all(1)
    assert 0 < int(same.sum()) < COUNT
    assert torch.equal(result.inputs["attention_mask"][same], batch.inputs["attention_mask"][same])
    assert torch.equal(result.inputs["input_ids"], batch.inputs["input_ids"])


def test_images_and_tokens_of_one_batch_are_changed_by_one_job():
    images = torch.rand(COUNT, 1, 8, 8)
    batch = batch_of(image=images)
    result = run([{"flip": {"p": 1}}, {"token_dropout": {"id": MASK, "p": 1}}], batch)
    assert torch.equal(result.inputs["image"], images.flip(3))
    assert torch.equal(result.inputs["input_ids"] == MASK, batch.inputs["attention_mask"] == 1)


@pytest.mark.parametrize("name", ["token_dropout", "token_swap", "token_mixup"])
def test_p_0_changes_nothing_and_a_seed_gives_the_same_bits(name):
    options = {"id": MASK} if name == "token_dropout" else {}
    batch = batch_of() if name != "token_mixup" else batch_of(e=torch.randn(COUNT, LENGTH, 4))
    assert Augment([{name: {**options, "p": 0}}]).forward(batch, StepInfo(0)) is None
    first, again = (run([{name: {**options, "p": 0.5}}], batch, 3) for _ in range(2))
    others = [run([{name: {**options, "p": 0.5}}], batch, number) for number in range(4, 9)]
    for key in first.inputs:
        assert torch.equal(first.inputs[key], again.inputs[key])
    assert any(
        not torch.equal(first.inputs[key], other.inputs[key]) for key in first.inputs for other in others
    )


CLASSES_EACH = torch.zeros(COUNT, LENGTH, dtype=torch.int64)
WRONG = {
    "no id": ([{"token_dropout": {}}], {}, None, "id is None; it must be a whole number"),
    "swapped tags": (["token_swap"], {}, CLASSES_EACH, "the targets have a class for each token"),
    "no embeddings": (["token_mixup"], {}, None, "none of the inputs is embeddings.*inputs_key"),
    "two of them": (
        [{"token_swap": {"inputs_key": "attention_mask"}}], {}, None, "which is no token ids",
    ),
    "a mask of another form": (
        ["token_swap"], {"attention_mask": torch.ones(COUNT, 3)}, None, r"a tensor \(64, 30\), one a token",
    ),
    "mixed boxes": (
        ["token_mixup"], {"e": torch.rand(COUNT, LENGTH, 2)}, {"boxes": CLASSES_EACH}, "targets are boxes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(case):
    ops, more, targets, message = WRONG[case]
    batch = batch_of(**more)
    if targets is not None:
        batch = batch.with_(targets=targets)
    with pytest.raises(ValueError, match=message):
        run(ops, batch)


def test_images_are_no_tokens():
    with pytest.raises(ValueError, match=r"ops\[0\] token_swap: it works on token ids"):
        run(["token_swap"], Batch(torch.rand(2, 1, 4, 4), torch.zeros(2).long(), torch.arange(2), 3))
