"""What holds for every operation: determinism, range, no edit in place, the pipeline and its messages."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from ringfence import Batch, StepInfo, passthrough
from ringfence.builtin.augment import Augment, names, token_names
from ringfence.builtin.augment.draw import Draw
from ringfence.builtin.augment.plugin import OPS, TOKEN_OPS
from ringfence.hooks.specs import ROLES
from ringfence.plugins.result_checks import check_batch

pytestmark = pytest.mark.usefixtures("one_thread")

DOCS = Path(__file__).parents[2] / "docs" / "augment.md"
SHAPES = [(5, 1, 28, 28), (4, 3, 32, 32), (3, 3, 29, 37), (7, 1, 9, 6), (1, 3, 28, 28)]

HASH_ALL = """
import hashlib, torch
from ringfence import Batch, StepInfo
from ringfence.builtin.augment import Augment, names
torch.set_num_threads(1)
g = torch.Generator().manual_seed(3)
batch = Batch(torch.rand(6, 3, 20, 24, generator=g), torch.arange(6), torch.arange(6), 6)
for name in names():
    out = Augment([{name: {"p": 0.7}}]).forward(batch, StepInfo(90, steps_total=100, seed=4)) or batch
    print(name, hashlib.sha256(out.inputs.numpy().tobytes() + out.targets.numpy().tobytes()).hexdigest())
"""


def make_batch(shape, *, seed=0, num_classes=10):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, num_classes, shape[:1], generator=generator)
    return Batch(torch.rand(shape, generator=generator), targets, torch.arange(shape[0]), num_classes)


def late(seed=1):
    return StepInfo(global_step=99, steps_total=100, seed=seed)


def test_plugin_has_its_role_and_no_backward():
    assert Augment.role in ROLES
    assert Augment.backward is passthrough


def test_at_least_sixteen_operations_are_named_and_each_says_its_source():
    assert len(names()) >= 16
    assert {"mixup", "cutmix", "cutout", "random_erasing", "gridmask", "mosaic", "augmix", "randaugment"} <= {
        *names()
    }
    for cls in OPS.values():
        assert "Source:" in cls.__doc__, cls
        assert "``p`` is of a" in cls.__doc__, cls


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("shape", SHAPES)
def test_result_passes_the_hosts_check_and_stays_in_range(name, shape):
    batch = make_batch(shape)
    kept = batch.inputs.clone(), batch.targets.clone()
    for seed in range(3):
        result = Augment([{name: {"p": 1.0}}]).forward(batch, late(seed)) or batch
        check_batch(result, batch)
        assert result.inputs.min() >= 0
        assert result.inputs.max() <= 1
        if result.targets.is_floating_point():
            assert torch.allclose(result.targets.sum(1), torch.ones(shape[0]), atol=1e-6)
    assert torch.equal(batch.inputs, kept[0])
    assert torch.equal(batch.targets, kept[1])


@pytest.mark.parametrize("name", names())
def test_operations_take_images_of_224_pixels(name):
    batch = make_batch((2, 3, 224, 224))
    result = Augment([{name: {"p": 1.0}}]).forward(batch, late()) or batch
    check_batch(result, batch)


@pytest.mark.parametrize("name", names())
def test_p_0_changes_nothing(name):
    assert Augment([{name: {"p": 0}}]).forward(make_batch((4, 3, 28, 28)), late()) is None


@pytest.mark.parametrize("name", names())
def test_same_seed_and_step_give_the_same_bytes_and_others_do_not(name):
    batch = make_batch((8, 3, 28, 28))
    augment = Augment([{name: {"p": 0.6}}])
    results = [augment.forward(batch, late(seed)) or batch for seed in range(6)]
    again = [Augment([{name: {"p": 0.6}}]).forward(batch, late(seed)) or batch for seed in range(6)]
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(results, again, strict=True))
    assert all(torch.equal(a.targets, b.targets) for a, b in zip(results, again, strict=True))
    assert any(not torch.equal(results[0].inputs, other.inputs) for other in results[1:])


def test_another_process_gives_the_same_bytes():
    done = subprocess.run(
        [sys.executable, "-c", HASH_ALL], capture_output=True, text=True, check=True, timeout=120
    )
    here = {}
    generator = torch.Generator().manual_seed(3)
    batch = Batch(torch.rand(6, 3, 20, 24, generator=generator), torch.arange(6), torch.arange(6), 6)
    for name in reversed(names()):
        out = Augment([{name: {"p": 0.7}}]).forward(batch, StepInfo(90, steps_total=100, seed=4)) or batch
        here[name] = hashlib.sha256(out.inputs.numpy().tobytes() + out.targets.numpy().tobytes()).hexdigest()
    assert dict(line.split() for line in done.stdout.splitlines()) == here


def test_no_operation_touches_global_random_state():
    old = np.random.get_state  # the state that plugins must leave alone
    before = torch.get_rng_state(), old()[1].copy(), random.getstate()
    for name in names():
        Augment([{name: {"p": 0.5}}]).forward(make_batch((4, 3, 28, 28)), late())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (old()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_operations_work_on_memory_that_the_kernel_write_protects(tmp_path):
    code = f"""
import mmap, warnings, numpy as np, torch
from ringfence import Batch, StepInfo
from ringfence.builtin.augment import Augment, names
warnings.simplefilter("ignore")
with open({str(tmp_path / "images")!r}, "w+b") as file:
    file.write(np.random.default_rng(0).random((4, 3, 32, 32), dtype=np.float32).tobytes())
    file.flush()
    memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
images = torch.from_numpy(np.frombuffer(memory, np.float32).reshape(4, 3, 32, 32))
batch = Batch(images, torch.arange(4), torch.arange(4), 4)
for name in [*names(), "GridDistortion", "CoarseDropout", "RandomShadow"]:
    Augment([{{name: {{"p": 1.0}}}}]).forward(batch, StepInfo(9, steps_total=10))
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("name", [n for n in names() if n not in {"mixup", "cutmix", "fmix"}])
def test_p_is_the_share_of_samples_that_change(name):
    generator = torch.Generator().manual_seed(0)
    batch = Batch(torch.rand(400, 3, 20, 20, generator=generator), torch.arange(400), torch.arange(400), 400)
    result = Augment([{name: {"p": 0.3}}]).forward(batch, StepInfo(0))
    share = (result.inputs != batch.inputs).flatten(1).any(1).float().mean()
    floor = 0.15 if name in {"randaugment", "trivialaugment", "hide_and_seek", "cutout", "gridmask"} else 0.22
    assert floor < share < 0.38


@pytest.mark.parametrize("name", ["mixup", "cutmix", "fmix"])
def test_p_is_the_share_of_batches_that_are_mixed(name):
    augment = Augment([{name: {"p": 0.3}}])
    batch = make_batch((4, 1, 8, 8))
    mixed = sum(augment.forward(batch, StepInfo(step)) is not None for step in range(400))
    assert 90 < mixed < 150


def test_operations_are_applied_in_the_order_of_the_job():
    batch = make_batch((4, 1, 28, 28))
    always = {"p": 1.0}
    first = Augment([{"invert": always}, {"solarize": always}]).forward(batch, late())
    second = Augment([{"solarize": always}, {"invert": always}]).forward(batch, late())
    inverted = 1 - batch.inputs
    assert torch.equal(first.inputs, torch.where((inverted * 255).round() < 128, inverted, 1 - inverted))
    assert not torch.equal(first.inputs, second.inputs)


def test_mixed_labels_are_mixed_again_by_the_next_operation():
    batch = make_batch((64, 1, 8, 8), num_classes=64)
    batch = dataclasses.replace(batch, targets=torch.arange(64))
    result = Augment(["mixup", {"cutmix": {"p": 1.0}}]).forward(batch, StepInfo(3, seed=1))
    assert ((result.targets > 0).sum(1) > 2).any()
    assert torch.allclose(result.targets.sum(1), torch.ones(64), atol=1e-6)


WRONG = [
    ([], "ops must be a list of at least one operation"),
    ("mixup", "ops must be a list"),
    (["mixupp"], r"ops\[0\]: no operation 'mixupp'; did you mean mixup"),
    (["flip", "grid_mask"], r"ops\[1\]: no operation 'grid_mask'; did you mean gridmask"),
    (
        [{"mixup": {"alhpa": 1}}],
        r"ops\[0\] mixup: no option 'alhpa'; did you mean alpha\?; it takes alpha, per_sample, p",
    ),
    ([{"mixup": {"alpha": 0}}], r"ops\[0\] mixup: alpha is 0; it must be a number above 0 to 1000"),
    ([{"mixup": {"p": 1.5}}], "p is 1.5; it must be a number from 0 to 1"),
    ([{"mixup": {"alpha": "1"}}], "alpha is '1'; it must be a number"),
    ([{"mixup": {"alpha": float("nan")}}], "alpha is nan"),
    ([{"mixup": {"per_sample": 1}}], "per_sample is 1; it must be true or false"),
    ([{"posterize": {"bits": 4.0}}], "bits is 4.0; it must be a whole number from 1 to 8"),
    ([{"posterize": {"bits": True}}], "bits is True"),
    ([{"flip": {"axis": "both"}}], "axis is 'both'; it must be one of horizontal, vertical"),
    ([{"affine": {"degrees": [5, -5]}}], r"degrees is \[5, -5\]; it must be a number or a range"),
    ([{"affine": {"scale": [0, 1]}}], "scale is"),
    ([{"cutout": {"fill": "black"}}], "fill is 'black'; it must be a number from 0 to 1, or the word mean"),
    ([{"hide_and_seek": {"cells": []}}], r"cells is \[\]; it must be a list of whole numbers"),
    ([{"augmix": {"depth": 0}}], "depth is 0; it must be -1"),
    ([{"mixup": {}, "cutmix": {}}], r"ops\[0\] is .*; it must be a name, or one name with its options"),
    ([{"mixup": 0.2}], r"ops\[0\] is"),
    ([3], r"ops\[0\] is 3"),
]


@pytest.mark.parametrize(("ops", "message"), WRONG, ids=[str(ops)[:40] for ops, _ in WRONG])
def test_wrong_job_says_where_and_what_would_be_right(ops, message):
    with pytest.raises(ValueError, match=message):
        Augment(ops)


def test_an_operation_may_have_no_options_written_as_null():
    assert Augment([{"flip": None}]).forward(make_batch((8, 1, 8, 8)), late()) is not None


def test_inputs_that_are_no_images_are_refused_by_name():
    batch = Batch(torch.rand(4, 16), torch.arange(4), torch.arange(4), 4)
    with pytest.raises(ValueError, match=r"ops\[0\] flip: it works on images, .* this batch is \(4, 16\)"):
        Augment(["flip"]).forward(batch, late())


#: Options with which an operation takes all its levels from the images.
OF_THE_IMAGES = {"crop": {"mode": "reflect"}, "random_erasing": {"mode": "mean"}}


@pytest.mark.parametrize("name", OPS)
def test_just_the_operations_that_would_cut_or_misread_other_numbers_need_levels(name):
    """What needs none gives the same on images of another scale, but for the scale."""
    op = OPS[name](p=1.0, **OF_THE_IMAGES.get(name, {}))
    batch = make_batch((6, 3, 16, 16))
    wide = batch.with_(inputs=4 * batch.inputs - 2)
    expected = 4 * op.change(batch, Draw(late())).inputs - 2
    try:
        same = torch.allclose(op.change(wide, Draw(late())).inputs, expected, atol=1e-5)
    except RuntimeError:
        same = False
    assert same is not op.needs_levels


@pytest.mark.parametrize("given", [[0.0, 255.0], [-2.0, 2.0], [0.0, 1.01], [-0.01, 1.0]])
@pytest.mark.parametrize(
    ("ops", "where"),
    [
        (["flip", "brightness"], "ops[1] brightness: "),
        (["randaugment"], "ops[0] randaugment: "),
        (["invert"], "ops[0] invert: "),
        (["mixup", "affine"], "ops[1] affine: "),
        (["flip", "HorizontalFlip", {"ColorJitter": {}}], "ops[1] HorizontalFlip: "),
    ],
)
def test_other_numbers_than_levels_are_refused_when_they_are_known(ops, where, given):
    low, high = given
    message = f"{where}it works on grey levels from 0 to 1, and the inputs reach from {low:g} to {high:g}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}; give .* uint8 or divide them by 255"):
        Augment(ops, input_range=given)
    inputs = torch.rand(4, 3, 8, 8) * (high - low) + low
    inputs[0, 0, 0, :2] = torch.tensor(given)
    plugin = Augment(ops)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        plugin.forward(make_batch(inputs.shape).with_(inputs=inputs), late())


@pytest.mark.parametrize(
    ("ops", "given"), [(["brightness"], [0, 1]), (["invert"], [-1e-3, 1.001]), (["flip", "mixup"], [-2, 300])]
)
def test_levels_and_what_needs_none_are_fine(ops, given):
    inputs = torch.full((4, 3, 8, 8), float(given[0])) + torch.eye(8) * (given[1] - given[0])
    for plugin in (Augment(ops, input_range=given), Augment(ops)):
        plugin.forward(make_batch(inputs.shape).with_(inputs=inputs), late())


def test_targets_that_are_images_stop_operations_that_move_pixels():
    batch = Batch(torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8), torch.arange(4), None)
    with pytest.raises(ValueError, match=r"ops\[0\] rotate: it moves pixels"):
        Augment([{"rotate": {"p": 1.0}}]).forward(batch, late())
    assert Augment([{"invert": {"p": 1.0}}]).forward(batch, late()) is not None


def test_documentation_lists_each_operation_with_its_options_and_defaults():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^\n]*)$", DOCS.read_text(), re.MULTILINE))
    assert list(rows) == [*names(), *token_names()]
    for name, cls in {**OPS, **TOKEN_OPS}.items():
        for field in dataclasses.fields(cls):
            if field.name in {"inputs_key", "mask_key"}:
                continue  # of all on tokens, told below the table
            default = field.default
            if isinstance(default, tuple):
                shown = "[" + ", ".join(f"{end:g}" for end in default) + "]"
            elif isinstance(default, float):
                shown = f"{default:g}"
            else:
                shown = str(default).lower()
            assert f"`{field.name}: {shown}`" in rows[name], (name, field.name, shown)
        per = re.search(r"``p`` is of a (\w+)", " ".join(cls.__doc__.split()))[1]
        assert f"| {per}" in rows[name], (name, per)


def test_jobs_of_the_documentation_run_as_they_stand():
    blocks = re.findall(r"^```yaml\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    jobs = [YAML(typ="safe").load(block) for block in blocks]
    plugins = [plugin for job in jobs for plugin in (job["plugins"] if isinstance(job, dict) else job)]
    assert len(plugins) >= 5
    images, ids = make_batch((4, 3, 32, 32)), torch.arange(200).view(4, 50)
    tokens = Batch(
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, images.targets, images.indices, 10
    )
    for plugin in plugins:
        batch = tokens if "token_dropout" in str(plugin) else images
        result = Augment(**plugin["augment"]).forward(batch, late())
        check_batch(batch if result is None else result, batch)
