"""The block before the first step: every fact in it, whole on a narrow terminal, bounded for large models."""

import pytest

from ringfence.api.start_block import start_lines

FACTS = {
    "data": {
        "name": "folder",
        "shape": [3, 32, 32],
        "dtype": "uint8",
        "range": [0, 255],
        "normalised": True,
        "classes": 3,
        "class_names": ["ant", "bee", "cat"],
        "parts": {
            "train": {"samples": 1200, "a_class": [0, 1000], "empty_classes": 1, "counts": [1000, 200, 0]},
            "validation": {"samples": 50, "a_class": [10, 20], "empty_classes": 0, "counts": [20, 20, 10]},
        },
    },
    "model": {
        "name": "cnn",
        "layers": [
            {"name": "features", "kind": "Conv2d", "output": [8, 16, 16], "parameters": 1000, "count": 1},
            {"name": "blocks.0", "kind": "Block", "output": [8, 16, 16], "parameters": 50, "count": 4},
            {"name": "", "kind": "Net", "output": None, "parameters": 7, "count": 1},
        ],
        "layers_left_out": 0,
        "parameters": 1207,
        "trained": 1200,
        "bytes": 3 << 20,
        "macs": 456_200_000,
        "started_from": {"source": "runs/a-1", "taken": 8, "missing": 1, "other_form": 1, "excluded": 1},
    },
    "plan": {
        "steps": 1,
        "steps_per_epoch": 40,
        "epochs": 0.03,
        "batch_size": 32,
        "grad_accum_steps": 2,
        "evaluations": 1,
        "eval_every": 40,
        "checkpoints": 1,
        "checkpoint_every": 40,
        "schedule": "cosine",
        "loss": "cross_entropy",
        "metric": "accuracy",
        "plugins": ["augment", "optim"],
        "averages": ["ema", "swa"],
        "device": "cpu",
        "threads": 2,
    },
}


def changed(part, **more):
    return FACTS | {part: FACTS[part] | more}


def test_it_tells_data_model_and_plan():
    assert start_lines(FACTS) == [
        "data   folder: 3x32x32 uint8 from 0 to 255, normalised",
        "       1,200 training samples: ant 1,000  bee 200  cat 0, 1 without any",
        "       50 validation samples: ant 20  bee 20  cat 10",
        "model  cnn: 1,207 parameters, 1,200 trained, 7 frozen; 3.0 MiB, 456 M MACs a sample",
        "       started from runs/a-1: 8 tensors taken, 3 tensors new",
        "         features     Conv2d  8x16x16  1,000",
        "         blocks.0 x4  Block   8x16x16    200",
        "         (own)        Net     —            7",
        "plan   1 step, 0.03 epochs of 40; batches of 32 times 2; on cpu, 2 threads",
        "       1 evaluation, every 40 steps; 1 checkpoint, every 40",
        "       loss cross_entropy, metric accuracy, schedule cosine, averages of the weights: ema, swa",
        "       plugins: augment → optim",
    ]


@pytest.mark.parametrize("width", [1, 40, 60, 80])
def test_a_narrow_terminal_has_all_of_it_in_more_lines(width):
    lines = start_lines(FACTS, width)
    assert max(map(len, lines)) <= max(width, 40)
    told = " ".join(" ".join(lines).split())
    for fact in (
        "cat 10",
        "456 M MACs",
        "8x16x16 1,000",
        "blocks.0 x4",
        "on cpu, 2 threads",
        "schedule cosine",
    ):
        assert fact in told


def test_many_classes_are_told_by_their_extremes():
    part = {"samples": 5000, "a_class": [3, 80], "empty_classes": 0}
    lines = start_lines(changed("data", classes=500, class_names=[], parts={"test": part}))
    assert lines[1] == "       5,000 test samples of 500 classes, 3 to 80 of each"


def test_numbers_and_probabilities_have_no_counts():
    data = {"classes": None, "range": None, "normalised": False, "parts": {"train": {"samples": 5}}}
    assert start_lines(changed("data", **data))[:2] == [
        "data   folder: 3x32x32 uint8",
        "       5 training samples",
    ]
    lines = start_lines(changed("data", parts={"train": {"samples": 5}}))
    assert lines[1] == "       5 training samples of 3 classes, as probabilities"


def test_what_was_left_out_is_told_where_it_was():
    lines = start_lines(changed("model", layers_left_out=1234))
    assert [line.split()[0] for line in lines[5:9]] == ["features", "blocks.0", "…", "(own)"]
    assert lines[7].endswith("and 1,234 more")


def test_names_cannot_draw_on_the_terminal():
    row = FACTS["model"]["layers"][0] | {"name": "a\x1b[31mb\nc" + "x" * 100}
    lines = start_lines(changed("model", name="m\x1b[2J", layers=[row]), 80)
    assert "\x1b" not in "".join(lines)
    assert all("\n" not in line and len(line) <= 80 for line in lines)
