"""Images of bytes cross as bytes, and plugins see the numbers that they always saw."""

from contextlib import closing

import pytest
import torch

from ringfence.engine.config import TrainConfig
from ringfence.engine.data import Data, Dataset, Plan, batches
from ringfence.engine.train import train
from ringfence.engine.trial import try_together
from ringfence.hooks.types import Batch
from ringfence.isolation.host.calls.call_memory import CallMemory
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.manager import Hooks
from ringfence.tensors.buffer_pool import LARGE_BYTES
from ringfence.tensors.byte_batch import ByteBatch

CHAIN = {"HorizontalFlip": {"p": 0.5}}
BRIGHT = {"RandomBrightnessContrast": {"p": 0.9}}


def images(count=40, side=8, channels=3):
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)
    return Dataset(inputs, torch.randint(0, 3, (count,), generator=generator), 3)


def builtin(*ops, isolation="sandbox", workers=1, name="augment"):
    options = {"ops": list(ops), "input_range": (0.0, 1.0)}
    where = "ringfence.builtin.augment", "Augment", "augment", options, isolation, workers
    return PluginSpec(name, "ringfence", "0", *where, job_seed=3)


def through(plugins, data, *, as_stored, steps=10):
    """Return what the model would see of the data: the batches after these plugins."""
    with closing(Hooks(3)) as hooks:
        for plugin in plugins:
            hooks.register(plugin)
        plan = Plan(len(data), 8)
        source = batches(
            data, plan, 3, first_step=0, steps_total=steps, lr_factor=lambda _: 1.0, as_stored=as_stored
        )
        return [(batch.inputs.clone(), batch.targets.clone()) for batch, _ in hooks.stream(source)]


def assert_same(one, other):
    assert len(one) == len(other)
    for (inputs, targets), (others, of_others) in zip(one, other, strict=True):
        assert inputs.dtype == torch.float32
        assert inputs.equal(others)
        assert targets.equal(of_others)


@pytest.mark.room
@pytest.mark.parametrize(
    "chain",
    [
        [[CHAIN, BRIGHT]],
        [["flip", CHAIN]],
        [[CHAIN, "mixup"]],
        [["flip"], [CHAIN]],
        [[CHAIN], ["cutmix"], [BRIGHT]],
    ],
)
@pytest.mark.parametrize("isolation", ["sandbox", "trusted"])
def test_builtin_plugins_make_the_same_of_bytes_as_of_numbers(sandbox, chain, isolation):
    def started():
        specs = [builtin(*ops, isolation=isolation, name=f"a{i}") for i, ops in enumerate(chain)]
        return [LocalPlugin(spec) if isolation == "trusted" else sandbox.start(spec) for spec in specs]

    data = images()

    assert_same(
        through(started(), data, as_stored=True),
        through(started(), data, as_stored=False),
    )


@pytest.mark.room
def test_two_workers_and_large_images_make_the_same_of_bytes(sandbox):
    data = images(16, side=256)
    assert data.inputs[:8].numel() > LARGE_BYTES
    found = [
        through([sandbox.start(builtin(*ops, workers=workers))], data, as_stored=as_stored, steps=6)
        for ops in ([CHAIN], ["flip"])
        for workers, as_stored in ((2, True), (1, False))
    ]
    assert_same(found[0], found[1])
    assert_same(found[2], found[3])


@pytest.mark.parametrize("where", ["Showing", "Bytewise", "Passing", "Keeping"])
def test_a_plugin_sees_numbers_unless_it_says_that_it_reads_bytes(start, where):
    data = images()

    found = through([start(f"onlookers:{where}", "augment")], data, as_stored=True)

    assert_same(found, through([], data, as_stored=False))


@pytest.mark.parametrize(("where", "nbytes"), [("Showing", 4 * 8 * 192), ("Bytewise", 8 * 192)])
def test_bytes_cross_to_whoever_says_that_it_reads_them(monkeypatch, start, where, nbytes):
    crossed = []
    put = CallMemory._put
    monkeypatch.setattr(CallMemory, "_put", lambda *given: crossed.append(given[1].nbytes) or put(*given))

    through([start(f"onlookers:{where}", "augment")], images(), as_stored=True)

    assert crossed[::3] == [nbytes] * 10


def test_a_plugin_that_is_left_out_halfway_leaves_numbers(start):
    plugin = start("onlookers:FailingLater", "augment", on_failure="disable")
    data = images()

    found = through([plugin], data, as_stored=True)

    expected = through([], data, as_stored=False)
    for step, ((inputs, _), (numbers, _)) in enumerate(zip(found, expected, strict=True)):
        assert inputs.equal(numbers * 0.5 if step < 3 else numbers)
    assert plugin.usage.traceback


@pytest.mark.parametrize("where", ["Learning", "Showing", "Bytewise"])
@pytest.mark.parametrize("trusted", [True, False])
def test_a_run_ends_with_the_same_weights(monkeypatch, spec, start, where, trusted):
    def weights():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
        with closing(Hooks(0)) as hooks:
            shown = f"onlookers:{where}", "augment"
            hooks.register(LocalPlugin(spec(*shown)) if trusted else start(*shown))
            hooks.register(LocalPlugin(spec("obedient:Momentum", "optimizer")))
            data, config = images(), TrainConfig(steps=8, batch_size=8)
            return train(try_together(model, Data(data, data), config), hooks).weights_sha256

    seen = []
    stored = Dataset.stored
    monkeypatch.setattr(Dataset, "stored", lambda *given: seen.append(stored(*given)) or seen[-1])
    with_bytes = weights()
    monkeypatch.undo()
    assert any(isinstance(batch, ByteBatch) for batch in seen)
    monkeypatch.setattr(Dataset, "batch", _as_it_was)
    monkeypatch.setattr(Dataset, "stored", _as_it_was)

    assert weights() == with_bytes


def _as_it_was(dataset, indices, spares=None):
    """Make a batch as was done before bytes could cross."""
    inputs = dataset.inputs.index_select(0, indices).to(torch.float32).div_(255)
    return Batch(inputs, dataset.targets.index_select(0, indices), indices, dataset.num_classes)
