"""Models of sequences, tables and pixels: what only fills up changes nothing, and each learns something."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ringfence import DataError
from ringfence.engine.data import Data, Dataset
from ringfence.models.data_shape import Shape, shape_of
from ringfence.models.model_registry import MODELS, build_for

WORDS, LENGTH = 11, 7
TOKENS = Shape(
    (LENGTH,),
    3,
    {"input_ids": (LENGTH,), "attention_mask": (LENGTH,)},
    {"input_ids": (WORDS,), "attention_mask": (2,)},
)
ALONE = Shape((LENGTH,), 3, values={"": (WORDS,)})
EACH_TOKEN = Shape((LENGTH,), WORDS, values={"": (WORDS,)}, positions=True)
SERIES = Shape((LENGTH, 5), 2)
TABLE = Shape((3,), 2, {"categories": (3,), "numbers": (4,)}, {"categories": (5, 6, 101)})
PIXELS = Shape((3, 13, 21), 2, positions=True)

SEQUENCE_MODELS = (
    ("transformer", {}),
    ("lstm", {}),
    ("lstm", {"bidirectional": True, "num_layers": 2}),
)


def build(name, shape, **options):
    torch.manual_seed(0)
    return MODELS[name](shape, **options)


def padded():
    """Four sequences of tokens, of which two end early, and one has a gap and begins late."""
    ids = torch.randint(0, WORDS, (4, LENGTH))
    mask = torch.ones(4, LENGTH, dtype=torch.int64)
    mask[1, 3:] = mask[2, :2] = mask[2, 4] = 0
    return ids, mask


@pytest.mark.parametrize(("name", "options"), SEQUENCE_MODELS)
@pytest.mark.parametrize("positions", [False, True])
def test_what_fills_up_sequences_changes_nothing(name, options, positions):
    """The control: without the mask it does."""
    ids, mask = padded()
    shape = Shape((LENGTH,), 3, TOKENS.named, TOKENS.values, positions)
    model = build(name, shape, **options).eval()
    other = torch.where(mask == 0, (ids + 1) % WORDS, ids)

    def counted(outputs):
        return outputs.transpose(1, 2)[mask.bool()] if positions else outputs

    outputs = model(input_ids=ids, attention_mask=mask)
    assert torch.equal(counted(outputs), counted(model(input_ids=other, attention_mask=mask)))
    assert not torch.equal(counted(model(ids)), counted(model(other)))
    # Nor does how far it is filled up.
    short = model(ids[1:2, :3], mask[1:2, :3])
    torch.testing.assert_close(short, outputs[1:2, :, :3] if positions else outputs[1:2], atol=1e-6, rtol=0)
    with torch.no_grad():
        assert torch.equal(model(ids, mask), outputs)


@pytest.mark.parametrize(("name", "options"), SEQUENCE_MODELS)
def test_a_token_that_fills_up_is_as_good_as_a_mask(name, options):
    ids, mask = padded()
    ids = torch.where(mask == 0, 0, ids.clamp(min=1))
    masked = build(name, TOKENS, pad_id=0, **options).eval()
    alone = build(name, ALONE, pad_id=0, **options).eval()

    assert torch.equal(alone(ids), masked(ids, mask))


@pytest.mark.parametrize(("name", "options"), SEQUENCE_MODELS)
def test_a_sample_of_nothing_but_padding_gives_numbers(name, options):
    model = build(name, TOKENS, **options)

    outputs = model(torch.zeros(2, LENGTH, dtype=torch.int64), torch.zeros(2, LENGTH))
    outputs.sum().backward()

    assert outputs.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "options"), SEQUENCE_MODELS)
def test_sizes_of_layers_are_told_without_memory(name, options):
    with torch.device("meta"):
        model = build(name, TOKENS, **options)
        ids, mask = torch.zeros(2, LENGTH, dtype=torch.int64), torch.ones(2, LENGTH)

    assert model(ids, mask).shape == (2, 3)


def test_lstm_reads_a_left_out_gap_as_if_it_were_not_there():
    ids, mask = padded()
    model = build("lstm", ALONE).eval()

    expected = model(ids[2:3, mask[2].bool()])

    torch.testing.assert_close(model(ids[2:3], mask[2:3]), expected, atol=1e-6, rtol=0)


def test_a_causal_transformer_does_not_read_what_comes():
    ids = torch.randint(0, WORDS, (2, LENGTH))
    later = torch.cat([ids[:, :4], (ids[:, 4:] + 1) % WORDS], 1)
    causal = build("transformer", EACH_TOKEN, causal=True).eval()
    both = build("transformer", EACH_TOKEN).eval()

    assert causal(ids).shape == (2, WORDS, LENGTH)
    assert torch.equal(causal(ids)[:, :, :4], causal(later)[:, :, :4])
    assert not torch.equal(both(ids)[:, :, :4], both(later)[:, :, :4])


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (13, 21), (16, 8)])
def test_unet_gives_an_output_for_each_pixel_of_any_size(size, depth):
    model = build("unet", PIXELS, width=4, depth=depth).eval()

    assert model(torch.rand(2, 3, *size)).shape == (2, 2, *size)


def sorted_words(count=32):
    """Which of three words comes more often."""
    ids = torch.randint(1, 4, (count, LENGTH))
    return ids, nn.functional.one_hot(ids, 4).sum(1)[:, 1:].argmax(1)


def inputs_and_targets(name):
    torch.manual_seed(1)
    if name == "unet":
        images = torch.rand(8, 3, 13, 21)
        return images, (images[:, 0] > 0.5).long(), PIXELS
    if name == "mlp":
        categories, numbers = torch.randint(0, 5, (32, 3)), torch.rand(32, 4)
        return {"categories": categories, "numbers": numbers}, (categories[:, 0] > 2).long(), TABLE
    if name == "causal":
        ids = (torch.arange(LENGTH + 1) + torch.arange(WORDS)[:, None]) % WORDS
        return ids[:, :-1], ids[:, 1:], EACH_TOKEN
    if name == "series":
        series = torch.randn(32, LENGTH, 5)
        return series, (series[:, -1, 0] > 0).long(), SERIES
    ids, targets = sorted_words()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, targets, TOKENS


LEARNING = [
    ("transformer", "words", {"dropout": 0.0}),
    ("transformer", "causal", {"causal": True, "dropout": 0.0}),
    ("lstm", "words", {"bidirectional": True}),
    ("lstm", "series", {}),
    ("unet", "unet", {"width": 4, "depth": 2}),
    ("mlp", "mlp", {"hidden": [16]}),
]


@pytest.mark.parametrize(("name", "task", "options"), LEARNING)
def test_model_learns_a_small_task(name, task, options):
    inputs, targets, shape = inputs_and_targets(task)
    model = build(name, shape, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02 if name == "unet" else 0.005)
    for _ in range(60):
        outputs = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        loss = nn.functional.cross_entropy(outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
    assert loss.item() < 0.2


@pytest.mark.parametrize(
    ("name", "shape", "names"),
    [
        ("lstm", ALONE, ["embed.weight", "lstm.weight_ih_l0", "head.weight"]),
        (
            "transformer",
            ALONE,
            ["embed.weight", "position.weight", "encoder.layers.1.linear2.bias", "head.bias"],
        ),
        ("transformer", Shape((1, 8, 8), 2), ["embed.weight", "encoder.norm.weight"]),
        ("unet", PIXELS, ["down.3.0.weight", "upsample.0.bias", "up.2.1.running_mean", "head.weight"]),
        ("mlp", TABLE, ["embeddings.2.weight", "layers.1.weight", "layers.5.bias"]),
    ],
)
def test_names_of_weights_stay_as_saved_runs_have_them(name, shape, names):
    assert set(names) <= build(name, shape).state_dict().keys()


def test_shape_is_read_off_the_data():
    ids = torch.tensor([[3, 0], [1, 2]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    train = Dataset(inputs, torch.tensor([[0, 1], [1, -100]]), 2)
    test = Dataset({**inputs, "input_ids": ids + 4}, train.targets, 2)

    shape = shape_of(Data(train, test))

    assert shape.tokens == 8
    assert (shape.named, shape.positions, shape.outputs) == (
        {"input_ids": (2,), "attention_mask": (2,)},
        True,
        2,
    )
    known = shape_of(Data(train, test, values={"input_ids": (100,)}))
    assert known.tokens == 100


def test_a_model_of_the_users_is_told_how_many_tokens_there_are(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "net_of_tokens.py").write_text(
        "from torch import nn\n\ndef make(vocab_size):\n    return nn.Embedding(vocab_size, 2)\n"
    )

    assert build_for("net_of_tokens:make", {}, TOKENS, base=tmp_path).num_embeddings == WORDS
    assert build_for("net_of_tokens:make", {"vocab_size": 50}, TOKENS, base=tmp_path).num_embeddings == 50


@pytest.mark.parametrize(
    ("name", "shape", "options", "said"),
    [
        ("lstm", Shape((3, 8, 8), 2), {}, r"takes token ids .*; the data has inputs of shape \(3, 8, 8\)"),
        ("lstm", TABLE, {}, "the data has the inputs 'categories' \\(3,\\), 'numbers'"),
        ("transformer", TOKENS, {"vocab_size": 9}, "'vocab_size' is 9, the data hold token ids up to 10"),
        ("transformer", TOKENS, {"pad_id": 11}, "'vocab_size' is 11, the data hold token ids up to 11"),
        ("transformer", TOKENS, {"causal": True}, "'causal' is for a class at each position"),
        ("transformer", TOKENS, {"max_length": 5}, "'max_length' is 5, the data have sequences of 7"),
        ("transformer", TOKENS, {"num_heads": 3}, "'num_heads' is 3, which does not divide 'd_model', 64"),
        ("transformer", Shape((3, 8, 8), 2), {"patch": 3}, "'patch' is 3, which does not divide 8x8 pixels"),
        ("transformer", PIXELS, {}, "the data have one a pixel: use unet"),
        ("unet", Shape((3, 8, 8), 2), {}, "the data have one target an image: use cnn"),
        ("unet", TOKENS, {}, "model 'unet' takes images"),
        ("mlp", TOKENS, {}, "model 'mlp' takes one input, or 'categories'"),
    ],
)
def test_data_and_options_that_do_not_fit_are_told(name, shape, options, said):
    with pytest.raises(DataError, match=said):
        build(name, shape, **options)


def test_a_sequence_that_is_longer_than_the_model_is_told():
    model = build("transformer", ALONE)

    with pytest.raises(ValueError, match="the sequences have 8 positions, and the model 7: cut them"):
        model(torch.zeros(1, 8, dtype=torch.int64))
