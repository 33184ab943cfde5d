"""A plugin in a sandbox does what the same plugin does in this process, bit for bit."""

import math
import os
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch

from ringfence import AnotherPass, LossScale, PluginRaisedError, Report, StepInfo, TensorMap
from ringfence.isolation.policy.system_paths import PINNED
from ringfence.isolation.sandbox import Sandbox
from ringfence.isolation.transport.shared_memory import Region
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.manager import Hooks
from ringfence.tensors import pytree

from ..watching import descriptors, settled_descriptors

REGION = Region.__init__
ALL_LAYERS = {"fds", "environment", "rlimits", "privileges", "landlock", "seccomp", "watchdog", "messages"}


@pytest.fixture
def both(start, spec):
    """Start a plugin twice: isolated, and in this process."""

    def both(where, role="gradient", **settings):
        isolated = start(where, role, **settings)
        local = LocalPlugin(spec(where, role, **settings))
        sys.modules.pop("obedient", None)
        return isolated, local

    return both


def fresh(step):
    return StepInfo(step.global_step, step.epoch, steps_total=step.steps_total, seed=step.seed)


def test_every_required_layer_is_verified_before_plugin_code_runs(start):
    plugin = start("obedient:Inspect")
    assert set(plugin.usage.layers) >= ALL_LAYERS
    unverified = [layer.name for layer in plugin.layers if layer.status == "active" and not layer.verified_by]
    assert not unverified


def test_changed_gradients_are_equal_isolated_and_trusted(both, gradients, step):
    for where in ("obedient:Halve", "obedient:HalveIntoNew"):
        isolated, local = both(where)
        results = [
            plugin.call("backward", {"gradients": gradients}, fresh(step)) for plugin in (isolated, local)
        ]
        for name, gradient in gradients.items():
            assert torch.equal(results[0][name], gradient * 0.5)
            assert torch.equal(results[0][name], results[1][name])


def test_gaps_between_tensors_stay_zero(start, gradients, step):
    result = start("obedient:Halve").call("backward", {"gradients": gradients}, step)
    used = sum(gradient.abs().sum() for gradient in result.values())
    assert torch.isclose(result.flat().abs().sum(), used)


def test_memory_from_the_sandbox_is_read_without_a_copy(sandbox, start, gradients, step):
    shared = TensorMap(gradients.specs, sandbox.allocate(tuple(gradients.buffer.shape), torch.uint8))
    shared.buffer.copy_(gradients.buffer)
    plugin = start("obedient:Halve")
    result = plugin.call("backward", {"gradients": shared}, step)
    assert torch.equal(result["bias"], gradients["bias"] * 0.5)
    assert plugin._workers[0].slots[0]._staging is None


def test_loss_terms_and_scales_cross(both, batch, step):
    outputs = torch.randn(6, 3)
    arguments = {"batch": batch, "outputs": outputs, "loss": 1.25}
    isolated, local = both("obedient:Halve")
    terms = [plugin.call("forward", arguments, fresh(step)) for plugin in (isolated, local)]
    assert terms[0].value == terms[1].value
    assert torch.equal(terms[0].gradient, terms[1].gradient)
    for plugin in both("obedient:Doubled"):
        assert plugin.call("forward", arguments, fresh(step)) == LossScale(2.0)


def test_an_augmented_batch_is_equal_with_any_number_of_workers(both, batch):
    batches = [(batch.with_(inputs=batch.inputs + k), StepInfo(k)) for k in range(9)]
    logged = []

    def run(plugin):
        steps = []
        stream = plugin.stream(iter(batches), done=steps.append, failed=pytest.fail)
        results = [(changed.inputs, changed.targets, step.global_step) for changed, step in stream]
        logged.append([step.scalars for step in steps])
        return results

    for where in ("obedient:Brighten", "obedient:GlobalRandom"):
        reference = None
        for workers in (1, 3):
            isolated, local = both(where, "augment", workers=workers)
            reference = reference or run(local)
            results = run(isolated)
            assert [number for *_, number in results] == list(range(9))
            for (inputs, targets, _), (expected, expected_targets, _) in zip(results, reference, strict=True):
                assert torch.equal(inputs, expected)
                assert torch.equal(targets, expected_targets)
    assert logged[0] == logged[1] == logged[2]
    assert len(logged[0]) == 9


def test_a_stream_runs_ahead_and_can_be_abandoned(start, batch):
    plugin = start("obedient:Brighten", "augment", workers=2)
    pulled = []

    def source():
        for k in range(100):
            pulled.append(k)
            yield batch, StepInfo(k)

    stream = plugin.stream(source(), done=lambda step: None, failed=pytest.fail)
    next(stream)
    # One that is in use, and two a worker that are under way.
    assert len(pulled) == 5
    stream.close()
    again = plugin.stream(iter([(batch, StepInfo(50))]), done=lambda step: None, failed=pytest.fail)
    assert [step.global_step for _, step in again] == [50]


def test_optimizer_state_crosses_and_survives_a_restart(both, gradients, step):
    parameters = TensorMap.like(gradients)
    isolated, local = both("obedient:Momentum", "optimizer")
    for plugin in (isolated, local):
        for _ in range(3):
            plugin.call("backward", {"parameters": parameters, "gradients": gradients}, fresh(step))
    state = isolated.state_dict()
    biases = [pytree.decode(saved)["velocity"]["bias"] for saved in (state, local.state_dict())]
    assert torch.equal(*biases)
    isolated.restart()
    assert pytree.decode(isolated.state_dict())["velocity"] == {}
    isolated.load_state_dict(state)
    results = [
        plugin.call("backward", {"parameters": parameters, "gradients": gradients}, fresh(step))
        for plugin in (isolated, local)
    ]
    assert torch.equal(results[0]["weight"], results[1]["weight"])


def numbers(monkeypatch):
    """Return a list to which the number of each region is added that is made from now on."""
    made = []
    monkeypatch.setattr(
        Region, "__init__", lambda self, *a, **k: (REGION(self, *a, **k), made.append(self.id))[0]
    )
    return made


def test_a_fresh_worker_takes_over_the_memory_of_the_one_before(start, gradients, step):
    plugin = start("obedient:Halve")
    regions = []
    for _ in range(3):
        plugin.call("backward", {"gradients": gradients}, fresh(step))
        slots = plugin._workers[0].slots
        regions.append({region for slot in slots for region in (slot.outbox, slot._result) if region})
        plugin.restart()
    assert len(regions[0]) == len(slots) + 1
    assert regions[0] == regions[1] == regions[2]
    plugin.close()
    assert all(region.fd == -1 for region in regions[0])


def test_a_saved_state_is_given_back_from_where_it_lies(start, gradients, step, monkeypatch):
    plugin = start("obedient:Momentum", "optimizer")
    plugin.call("backward", {"parameters": gradients.clone(), "gradients": gradients, "loss": 0.5}, step)
    saved = plugin.state_dict()
    made = numbers(monkeypatch)
    plugin.load_state_dict(saved)
    assert made == []
    plugin.load_state_dict(pytree.encode(pytree.decode(saved)))
    assert len(made) == 1
    region = weakref.ref(plugin._readable[saved])
    closes = region()._close
    del saved
    assert region() is None
    assert not closes.alive


def test_an_optimizer_may_ask_for_another_pass(start, gradients, step):
    plugin = start("obedient:TwoPasses", "optimizer")
    parameters = TensorMap.like(gradients)
    arguments = {"parameters": parameters, "gradients": gradients, "loss": 0.5}
    first = plugin.call("backward", arguments, step)
    assert isinstance(first, AnotherPass)
    assert torch.equal(first.parameters["bias"], torch.ones(3))
    second = plugin.call("backward", arguments, StepInfo(4, pass_index=1, seed=99))
    assert torch.allclose(second["bias"], gradients["bias"] * -0.1)


def test_copies_are_copies(both, gradients, step):
    """Several in one call, and one that is kept over calls; in the sandbox as outside."""
    parameters = TensorMap.like(gradients)
    results, logged = [], []
    for plugin in both("obedient:Average", "optimizer"):
        for number in range(3):
            parameters.buffer.zero_()
            parameters["weight"].fill_(number)
            now = StepInfo(number)
            arguments = {"parameters": parameters, "gradients": gradients, "loss": 0.0}
            results.append(plugin.call("backward", arguments, now)["weight"].clone())
            logged.append(now.scalars["slow"])
    assert logged == [0.0] * 6
    for isolated, local in zip(results[:3], results[3:], strict=True):
        assert torch.equal(isolated, local)


def test_results_of_any_strides_and_places_arrive(both, step):
    gradients = TensorMap.like({"a": torch.zeros(3), "b": torch.zeros(3), "square": torch.zeros(3, 3)})
    for name, tensor in gradients.items():
        tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name))))
    results = [
        plugin.call("backward", {"gradients": gradients}, fresh(step))
        for plugin in both("obedient:Transposed")
    ]
    for name in gradients:
        assert torch.equal(results[0][name], results[1][name])
    assert torch.equal(results[0]["square"], gradients["square"].t())
    assert torch.equal(results[0]["a"], gradients["b"])


def test_what_a_constructor_draws_is_the_same_isolated_and_trusted(both, gradients, step):
    drawn = []
    for plugin in both("obedient:DrawsAtStart", job_seed=3):
        now = fresh(step)
        plugin.call("backward", {"gradients": gradients}, now)
        drawn.append(now.scalars["drawn"])
    assert drawn[0] == drawn[1]


def test_an_end_of_file_that_a_plugin_raises_is_told_as_its_own(start, gradients, step):
    with pytest.raises(PluginRaisedError, match="EOFError: No data left in file"):
        start("obedient:Reads").call("backward", {"gradients": gradients}, step)


def test_layouts_that_change_do_not_pile_up_memory(sandbox, start, gradients, step):
    plugin = start("obedient:HalveIntoNew")
    plugin.call("backward", {"gradients": gradients}, fresh(step))
    regions = len(sandbox.arena._regions)
    for size in range(1, 400):
        other = TensorMap.like({f"{size}": torch.zeros(1 + size % 7)})
        result = plugin.call("backward", {"gradients": other}, fresh(step))
        assert list(result) == [f"{size}"]
    assert len(sandbox.arena._regions) <= regions + 1
    result = plugin.call("backward", {"gradients": gradients}, fresh(step))
    assert torch.equal(result["bias"], gradients["bias"] * 0.5)


def test_memory_that_one_plugin_gives_up_is_unmapped_by_the_others(start, gradients):
    first, second = start("obedient:Halve"), start("obedient:HalveIntoNew")
    for _ in range(5):
        halved = first.call("backward", {"gradients": gradients}, StepInfo(0))
        second.call("backward", {"gradients": halved}, StepInfo(0))
        first.restart()
    attached = second._workers[0].exchange._attached
    second.call("backward", {"gradients": gradients}, StepInfo(0))
    assert len(attached) <= 6


def test_a_stream_whose_plugin_is_disabled_can_be_abandoned(start, batch):
    plugin = start("faulty:FaultyAugment", "augment", options={"at": 2})

    def disable(error):
        plugin.usage.state = "disabled"
        plugin.close()

    source = ((batch, StepInfo(k)) for k in range(20))
    stream = plugin.stream(source, done=lambda step: None, failed=disable)
    taken = [next(stream)[1].global_step for _ in range(3)]
    assert taken == [0, 1, 2]
    stream.close()


def test_a_stream_whose_plugin_is_disabled_passes_every_batch_on(start, batch):
    plugin = start("faulty:FaultyAugment", "augment", options={"at": 5}, workers=2)

    def disable(error):
        plugin.usage.state = "disabled"
        plugin.close()

    source = ((batch, StepInfo(k)) for k in range(20))
    stream = plugin.stream(source, done=lambda step: None, failed=disable)
    assert [step.global_step for _, step in stream] == list(range(20))


def test_a_monitor_that_was_refused_a_step_may_have_it_after_a_roll_back(start):
    plugin = start("obedient:Verbose", "monitor")
    plugin._refused_step = 11
    plugin.drain()
    assert plugin.post("backward", {}, StepInfo(11))
    assert len(plugin.drain()) == 1


def test_closing_twice_is_harmless_and_leaves_no_scratch(sandbox, start):
    plugin = start("obedient:Halve")
    before = set(sandbox.folder.iterdir())
    plugin.restart()
    assert len(set(sandbox.folder.iterdir())) == len(before)
    plugin.close()
    plugin.close()
    assert len(set(sandbox.folder.iterdir())) == len(before) - 1


def test_a_monitor_is_handed_a_copy_and_reports_later(start, batch, gradients, step):
    plugin = start("obedient:Watcher", "monitor")
    updates = gradients.clone()
    norm = float(sum(update.norm() for update in updates.values()))
    assert plugin.post("forward", {"batch": batch, "outputs": batch.inputs, "loss": 2.5}, step)
    assert plugin.post("backward", {"parameters": updates, "updates": updates, "gradients": updates}, step)
    updates.buffer.zero_()
    reports = [report for _, report in plugin.drain()]
    assert reports[0] == Report({"loss": 2.5, "rows": 6.0})
    assert reports[1].scalars["updates"] == pytest.approx(norm)
    assert list(reports[1].histograms["weights"].edges) == list(range(9))
    assert reports[1].images["picture"].shape == (32, 32, 3)


def test_a_report_larger_than_a_message_arrives_whole(start, step):
    plugin = start("obedient:Verbose", "monitor")
    plugin.post("backward", {}, step)
    [(_, report)] = plugin.drain()
    assert len(report.scalars) == len(report.histograms) == 300


def test_a_busy_monitor_is_skipped(start, step):
    plugin = start("obedient:Verbose", "monitor")
    assert plugin.post("backward", {}, StepInfo(1))
    refused = not plugin.post("backward", {}, StepInfo(2))
    assert len(plugin.drain()) == 2 - refused


def test_the_sandbox_sees_no_secret_and_the_asked_threads(start, gradients, step, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    plugin = start("obedient:Inspect", threads=2)
    plugin.call("backward", {"gradients": gradients}, step)
    seen = step.scalars
    assert seen["canary"] == 0
    assert seen["threads"] == 2
    assert seen["pid"] != os.getpid()
    assert seen["shared"] == 0
    # 0, 1, 2 and the socket; names that Landlock's rules hold; one for each region that it maps.
    assert seen["open_fds"] == 4 + len(PINNED) + len(plugin._workers[0].exchange._attached)
    assert seen["environment"] < 20


def test_the_host_never_imports_the_plugin(start, gradients, step):
    sys.modules.pop("obedient", None)
    start("obedient:Halve").call("backward", {"gradients": gradients}, step)
    assert "obedient" not in sys.modules


def test_usage_is_counted(start, gradients, step):
    plugin = start("obedient:Halve")
    began = time.monotonic()
    for _ in range(3):
        plugin.call("backward", {"gradients": gradients}, fresh(step))
    took_s = time.monotonic() - began
    time.sleep(0.2)
    assert plugin.usage.calls == 3
    assert 0 < plugin.usage.seconds <= took_s
    assert 0 < plugin.usage.peak_bytes < plugin.usage.budget_bytes
    assert math.isclose(
        plugin.usage.budget_bytes,
        0.15 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        rel_tol=0.01,
    )


def test_nothing_is_left_when_a_sandbox_closes(spec, gradients, step):
    before = descriptors(), threading.active_count()
    with Sandbox() as sandbox:
        folder = sandbox.folder
        plugin = sandbox.start(spec("obedient:Brighten", "augment", workers=2))
        pids = [worker.channel.process.pid for worker in plugin._workers]
        zygote = sandbox._zygote.pid
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not any(Path(f"/proc/{pid}").exists() for pid in [*pids, zygote])
    assert not folder.exists()
    del plugin
    assert settled_descriptors(before[0]) <= before[0]
    assert threading.active_count() <= before[1]


def test_hooks_fold_isolated_plugins_in_the_jobs_order(start, gradients):
    hooks = Hooks(seed=3)
    hooks.register(start("obedient:Halve"))
    hooks.register(start("obedient:HalveIntoNew"))
    given = {"gradients": gradients, "parameters": gradients}
    changes = hooks.fire(hooks.at.gradients, given, StepInfo(0))
    result = given["gradients"]
    assert changes[-1] is result
    assert torch.equal(result["bias"], gradients["bias"] * 0.25)
