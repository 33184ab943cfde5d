"""Save data sets with the library of Hugging Face, read them and train on them; run by the test beside it."""

import sys
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image

import ringfence
from ringfence.datasets.dataset_registry import load_data
from ringfence.datasets.row_file import read_rows

HERE = Path.cwd()
OPTIM = {"optim": {"algorithm": "adamw", "lr": 1e-2}, "isolation": "trusted"}
COMMON = {"epochs": 2, "threads": 1, "plugins": [OPTIM], "progress": False}
LABEL = datasets.ClassLabel(names=["bad", "good"])


def texts():
    columns = {
        "text": [f"word{i % 7} word{i % 2}" for i in range(60)],
        "label": [i % 2 for i in range(60)],
        "score": [None if i % 9 == 0 else i / 4 for i in range(60)],
        "when": [f"2024-01-{1 + i % 28:02}" for i in range(60)],
    }
    kinds = {name: datasets.Value("float64" if name == "score" else "string") for name in columns}
    whole = datasets.Dataset.from_dict(columns, features=datasets.Features({**kinds, "label": LABEL}))
    # Rows in another order than their files', of which some are left out.
    mixed = whole.shuffle(seed=1).filter(lambda row: row["text"] != "word3 word1")
    mixed.save_to_disk(HERE / "texts", num_shards=3)
    loaded = datasets.load_from_disk(HERE / "texts")
    rows = read_rows(HERE / "texts")
    assert len(rows) == len(loaded) > 40
    for name in ("text", "score", "when"):
        assert rows.columns[name] == list(loaded[name]), name
    assert rows.columns["label"] == [LABEL.int2str(number) for number in loaded["label"]]

    mixed.train_test_split(0.25, seed=0).save_to_disk(HERE / "parts")
    run = ringfence.train(
        model={"name": "lstm", "hidden_size": 8, "embedding_dim": 8},
        data={"name": "text", "path": "parts"},
        out=HERE / "run-texts",
        **COMMON,
    )
    assert run.evaluate(HERE / "parts" / "test")["data"]["samples"] == round(len(loaded) * 0.25 + 0.49)


def images():
    pictures = [Image.fromarray(np.full((6, 5, 3), 20 * i, np.uint8)) for i in range(12)]
    # One that lies in a file of its own, which the library puts into those that it writes.
    pictures[3].save(HERE / "photo.png")
    columns = {
        "image": [*pictures[:3], str(HERE / "photo.png"), *pictures[4:]],
        "label": [i % 2 for i in range(12)],
    }
    features = datasets.Features({"image": datasets.Image(), "label": LABEL})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(HERE / "images")
    (HERE / "photo.png").unlink()
    options = {"path": "images", "split_seed": 3}
    data = load_data("folder", options, base=HERE)
    levels = torch.cat([data.train.inputs, data.test.inputs])[:, 0, 0, 0].sort().values
    assert levels.tolist() == [20 * i for i in range(12)]
    run = ringfence.train(
        model={"name": "mlp", "hidden": [4]},
        data={"name": "folder", **options},
        out=HERE / "run-images",
        **COMMON,
    )
    assert run.status == "completed"


if __name__ == "__main__":
    texts()
    images()
    print(datasets.__version__, file=sys.stdout)
