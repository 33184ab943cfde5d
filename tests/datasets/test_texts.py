"""Texts: vocabularies of the training rows alone, padding, and the next token."""

from __future__ import annotations

import json

import pytest
import torch

from ringfence import DataError
from ringfence.datasets.dataset_registry import load_data
from ringfence.datasets.row_file import read_rows
from ringfence.datasets.run_encoder import row_encoder
from ringfence.engine.preprocessing import Preprocessing

TEXTS = [("a good film", "pos"), ("A bad film, sadly", "neg"), ("good", "pos"), ("bad bad", "neg")]


@pytest.fixture
def reviews(tmp_path):
    write(tmp_path / "train.jsonl", TEXTS)
    write(
        tmp_path / "test.jsonl", [("a dreadful film", "neg"), ("good good good good good good good", "pos")]
    )
    return tmp_path


def write(path, pairs):
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in pairs))


def load(base, **options):
    return load_data("text", {"path": ".", **options}, base=base)


def test_words_are_numbered_by_the_training_texts(reviews):
    data = load(reviews)

    ids, mask = data.train.inputs["input_ids"], data.train.inputs["attention_mask"]
    # Five tokens are the most: a bad film , sadly.
    assert ids.shape == mask.shape == (4, 5)
    assert mask.sum(1).tolist() == [3, 5, 1, 2]
    assert ids[mask == 0].unique().tolist() == [0]
    assert (ids[0, 0], ids[0, 2], ids[3, 0]) == (ids[1, 0], ids[1, 2], ids[3, 1])
    # What was never seen is one token, and a text that is too long is cut.
    assert data.test.inputs["input_ids"][0].tolist() == [ids[0, 0], 1, ids[0, 2], 0, 0]
    assert data.test.inputs["input_ids"][1].tolist() == [ids[2, 0]] * 5
    assert data.values["input_ids"] == (8,)
    assert data.train.class_names == ("neg", "pos")
    assert data.notes[1:3] == (
        "8 tokens in the vocabulary; samples of at most 5 tokens",
        "1 text cut to 5 tokens",
    )


def test_case_counts_where_it_is_to(reviews):
    ids = load(reviews, lowercase=False).train.inputs["input_ids"]

    assert ids[0, 0] != ids[1, 0]


def test_bytes_that_come_together_are_tokens_and_lose_nothing(reviews):
    data = load(reviews, tokenizer="bpe", vocab_size=300)

    assert data.test.inputs["input_ids"][data.test.inputs["attention_mask"] == 1].min() > 1
    assert data.values["input_ids"][0] <= 300
    assert load(reviews, tokenizer="bpe", vocab_size=300).preprocessing == data.preprocessing


def test_a_tokenizer_of_others_is_taken_as_it_is(reviews):
    kept = load(reviews).preprocessing.state["tokenizer"]
    (reviews / "tokenizer.json").write_text(kept)
    (reviews / "more.jsonl").write_text('{"text": "other words", "label": "pos"}\n' * 3)

    data = load(reviews, path="more.jsonl", tokenizer="tokenizer.json", test_fraction=0.5)

    assert data.preprocessing.state["tokenizer"] == kept
    assert data.train.inputs["input_ids"].unique().tolist() == [1]


def test_of_the_next_token_each_position_is_a_target_where_one_comes(reviews):
    data = load(reviews, task="next_token")

    ids, mask = data.train.inputs["input_ids"], data.train.inputs["attention_mask"]
    assert ids.shape == data.train.targets.shape == (4, 5)
    assert data.train.num_classes == data.values["input_ids"][0] == 8
    assert data.train.targets[0].tolist() == [*ids[0, 1:3].tolist(), -100, -100, -100]
    assert data.train.targets[2].tolist() == [-100] * 5
    assert (data.train.targets[1] != -100).sum() == 4
    assert mask.sum(1).tolist() == [3, 5, 1, 2]


def test_what_a_run_keeps_makes_the_same_tokens_of_other_texts(reviews):
    data = load(reviews)
    (reviews / "new.csv").write_text("text\na good film\n")

    inputs = row_encoder(data.preprocessing)().inputs(read_rows(reviews / "new.csv"), torch.arange(1))

    # No longer than the longest of them.
    assert torch.equal(inputs["input_ids"], data.train.inputs["input_ids"][:1, :3])


def test_a_batch_is_as_long_as_its_longest_text(reviews):
    data = load(reviews)
    whole = data.train.inputs["input_ids"]

    batch = data.train.batch(torch.tensor([3, 0]))

    assert torch.equal(batch.inputs["input_ids"], whole[[3, 0], :3])
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    of_next = load(reviews, task="next_token").train
    assert torch.equal(of_next.batch(torch.tensor([2, 3])).targets, of_next.targets[[2, 3], :2])


def test_or_all_are_of_one_length(reviews):
    data = load(reviews, padding="max_length")
    (reviews / "new.csv").write_text("text\na good film\n")

    inputs = row_encoder(data.preprocessing)().inputs(read_rows(reviews / "new.csv"), torch.arange(1))

    assert data.train.batch(torch.tensor([3, 0])).inputs["input_ids"].shape == (2, 5)
    assert inputs["input_ids"].shape == (1, 5)


def test_what_a_run_of_before_kept_pads_as_it_did(reviews):
    kept = load(reviews, padding="max_length").preprocessing
    state = {name: value for name, value in kept.state.items() if name != "padding"}
    (reviews / "new.csv").write_text("text\na good film\n")

    make = row_encoder(Preprocessing("text", state))

    assert make().inputs(read_rows(reviews / "new.csv"), torch.arange(1))["input_ids"].shape == (1, 5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text": "body"}, "has no column 'body', which option 'text' names"),
        ({"target": "stars"}, "has no column 'stars', which option 'target' names"),
        ({"tokenizer": "none.json"}, "option 'tokenizer' cannot be read: No such file"),
        ({"tokenizer": "train.jsonl"}, "the tokenizer cannot be read"),
    ],
)
def test_what_does_not_fit_is_told(reviews, options, said):
    with pytest.raises(DataError, match=said):
        load(reviews, **options)


def test_a_class_that_only_the_test_has_and_a_text_that_is_none_are_told_by_line(reviews):
    write(reviews / "test.jsonl", [("good", "pos"), ("so so", "middling")])
    with pytest.raises(
        DataError, match=r"test\.jsonl: line 2: column 'label' holds the class 'middling', which"
    ):
        load(reviews)
    write(reviews / "test.jsonl", [("good", "pos"), (["so", "so"], "pos")])
    with pytest.raises(DataError, match=r"test\.jsonl: line 2: column 'text' holds no text"):
        load(reviews)


@pytest.mark.parametrize(
    "change", [{"tokenizer": "{}"}, {"length": 0}, {"length": 10**9}, {"pad_id": -1}, {"more": 1}]
)
def test_what_a_stranger_wrote_of_texts_is_checked(reviews, change):
    state = {**load(reviews).preprocessing.state, **change}

    with pytest.raises(
        DataError, match=r"preprocessing\.json of the run is damaged|the tokenizer cannot be read"
    ):
        row_encoder(Preprocessing("text", state))()
