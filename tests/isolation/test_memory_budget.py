"""Whatever way memory is taken, a plugin stays within its budget as seen from outside."""

import contextlib
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ringfence import Batch, PluginMemoryError, PluginRaisedError, StepInfo, TensorMap
from ringfence.isolation.host.limits import account
from ringfence.isolation.host.limits.rlimit_ceiling import Ceiling
from ringfence.isolation.sandbox import Sandbox

from ..watching import Watching

PLUGINS = Path(__file__).parent / "plugins"
MIB = 1 << 20
#: What may be used beyond a budget where the kernel holds it.
KERNEL = 1.02
#: And where only the watchdog sees it, on a machine that others use too.
WATCHDOG = 1.1
GRADIENTS = TensorMap.like({"weight": torch.ones(4)})
BATCH = Batch(torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6), 3)

WAYS = [
    ("malloc", KERNEL),
    ("private_mapping", KERNEL),
    pytest.param("program_break", KERNEL, marks=pytest.mark.soak),
    ("stacks", KERNEL),
    ("torch_spike", KERNEL),
    ("file_mapping", KERNEL),
    ("untouched", KERNEL),
    ("page_tables", KERNEL),
    ("read_only", WATCHDOG),
    pytest.param("read_only_huge", WATCHDOG, marks=pytest.mark.soak),
    pytest.param("read_only_threads", WATCHDOG, marks=pytest.mark.soak),
]


class Sampler(Watching):
    """Adds up what all workers of a plugin use, and its result buffers, every millisecond; keeps the most."""

    every_s = 0.0005

    def __init__(self, plugin):
        super().__init__()
        self.plugin = plugin
        self.peak = 0

    def look(self):
        workers = list(self.plugin._workers)
        used = sum(private_bytes(worker.channel.process.pid) for worker in workers)
        self.peak = max(self.peak, used + sum(worker.exchange.result_bytes for worker in workers))


def private_bytes(pid):
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        wanted = ("RssAnon:", "VmSwap:", "VmPTE:")
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(wanted))
    return 0


def backward(plugin):
    plugin.call("backward", {"gradients": GRADIENTS}, StepInfo(0))


def forward_in_all_workers(plugin):
    def failed(error):
        raise error

    steps = [(BATCH, StepInfo(number)) for number in range(plugin.spec.workers)]
    list(plugin.stream(steps, done=lambda _: None, failed=failed))


@pytest.fixture(scope="module", params=["cgroup", "no cgroup"])
def hosting(request):
    with Sandbox(skip_layers=() if request.param == "cgroup" else ("cgroup",)) as running:
        yield running


@pytest.mark.parametrize(("way", "tolerance"), WAYS)
def test_a_plugin_stays_within_its_budget(hosting, spec, way, tolerance):
    plugin = hosting.start(spec("hungry:Hungry", options={"way": way}, memory_fraction=0.02))
    with Sampler(plugin) as sampler, pytest.raises(PluginMemoryError) as caught:
        backward(plugin)
    budget = plugin.usage.budget_bytes
    plugin.close()
    print(f"{way}: {budget / MIB:.0f} MiB, at most {sampler.peak / budget:.1%}, {caught.value}")
    assert sampler.peak <= tolerance * budget
    assert caught.value.hook == "gradient.backward"
    assert caught.value.limit_bytes == budget
    if tolerance == KERNEL:
        assert caught.value.enforced_by in ("RLIMIT_DATA", "cgroup")


@pytest.mark.parametrize("way", ["malloc", "untouched", "read_only"])
def test_workers_stay_within_one_budget_together(hosting, spec, way):
    described = spec("hungry:HungryTwin", "augment", options={"way": way}, memory_fraction=0.06, workers=3)
    plugin = hosting.start(described)
    with Sampler(plugin) as sampler, pytest.raises(PluginMemoryError):
        forward_in_all_workers(plugin)
    budget = plugin.usage.budget_bytes
    plugin.close()
    print(f"{way}, 3 workers: {budget / MIB:.0f} MiB, at most {sampler.peak / budget:.1%}")
    assert sampler.peak <= (WATCHDOG if way == "read_only" else KERNEL) * budget


@pytest.mark.room
@pytest.mark.parametrize("way", ["malloc", "read_only"])
def test_without_a_sandbox_the_same_takes_all_that_it_wants(way):
    code = f"import hungry; hungry.{way}(); print(open('/proc/self/status').read())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PLUGINS, capture_output=True, text=True, timeout=120, check=True
    )
    (most,) = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("VmHWM:")]
    assert most * 1024 > 1400 * MIB


@pytest.mark.room
def test_page_tables_grow_without_a_sandbox():
    code = "import hungry; hungry.page_tables(); print(open('/proc/self/status').read())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PLUGINS, capture_output=True, text=True, timeout=120, check=True
    )
    (most,) = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("VmPTE:")]
    assert most * 1024 > 900 * MIB


# what the host hands out


def room_mib(start, memory_fraction):
    """Return what a plugin may take beyond what it is forked with."""
    plugin = start("hungry:Holder", memory_fraction=memory_fraction)
    return (plugin.usage.budget_bytes - plugin._workers[0].channel.process.inherited_bytes) // MIB


def test_a_result_that_does_not_fit_beside_what_a_plugin_holds_is_refused_before_it_is_made(start):
    plugin = start("hungry:Holder", options={"mib": room_mib(start, 0.02) - 95}, memory_fraction=0.02)
    large = TensorMap.like({"weight": torch.ones(100 * MIB // 4)})
    with Sampler(plugin) as sampler, pytest.raises(PluginMemoryError) as caught:
        plugin.call("backward", {"gradients": large}, StepInfo(3))
    error = caught.value
    assert (error.enforced_by, error.hook, error.step) == ("host", "gradient.backward", 3)
    assert "needs 100 MiB for what it returns and saves, and holds" in str(error)
    assert sampler.peak <= plugin.usage.budget_bytes
    # It is alive, and what fits is still done.
    plugin.call("backward", {"gradients": GRADIENTS}, StepInfo(4))


def test_what_is_given_for_results_can_no_longer_be_allocated(start, sandbox):
    large = TensorMap.like({"weight": torch.ones(100 * MIB // 4)})
    plugin = start("hungry:Holder", memory_fraction=0.02)
    before = soft_limit(plugin)
    plugin.call("backward", {"gradients": large}, StepInfo(0))
    assert 100 * MIB <= before - soft_limit(plugin) <= 101 * MIB


def test_a_state_too_large_for_the_budget_is_refused(start):
    held = room_mib(start, 0.02) - 155
    plugin = start("hungry:Holder", options={"mib": held, "state_mib": 60}, memory_fraction=0.02)
    with Sampler(plugin) as sampler, pytest.raises(PluginMemoryError):
        plugin.state_dict()
    assert sampler.peak <= KERNEL * plugin.usage.budget_bytes


def test_regions_that_a_worker_lets_go_of_never_count_as_free(start):
    plugin = start("hungry:Hoarder", memory_fraction=0.025)
    with Sampler(plugin) as sampler:
        saves = count_saves(plugin)
    assert 5 <= saves < 100
    assert sampler.peak <= KERNEL * plugin.usage.budget_bytes


def count_saves(plugin):
    """Return how often a plugin's state can be saved before it is refused."""
    for saves in range(100):
        try:
            plugin.state_dict()
        except (PluginMemoryError, PluginRaisedError):  # native code takes a refusal for a bug
            return saves
    return 100


def test_a_worker_may_map_as_much_of_the_hosts_memory_as_it_is_given(start):
    """Eight times its budget in address space is all that a plugin gets beside the host's own buffers."""
    plugin = start("hungry:Holder", options={"state_mib": 1}, memory_fraction=0.02)
    process = plugin._workers[0].channel.process
    process.ceiling.widen(-8 * plugin.usage.budget_bytes + 32 * MIB)
    plugin.call("backward", {"gradients": TensorMap.like({"weight": torch.ones(16 * MIB)})}, StepInfo(0))


def test_limits_of_a_process_that_is_gone_are_nobodys(sandbox):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(ProcessLookupError):
        Ceiling(process.pid)


def soft_limit(plugin):
    return resource.prlimit(plugin._workers[0].channel.process.pid, resource.RLIMIT_DATA)[0]


# what the watchdog does to be in time


def test_memory_is_measured_more_often_the_less_of_it_is_left(start, monkeypatch):
    far = start("hungry:Holder", memory_fraction=0.05)
    near = start("hungry:Holder", options={"mib": 190}, memory_fraction=0.02)
    monkeypatch.setattr(account, "time", SimpleNamespace(monotonic=lambda: 100.0))
    near_s, far_s = pause(near), pause(far)
    monkeypatch.undo()
    assert 0 < near_s < far_s / 2
    assert far_s <= account.INTERVAL_S


def pause(plugin):
    """Return how long after a look at its memory the next one is due."""
    plugin._group._account.measure()
    return plugin._group._account.look_at - 100.0


@pytest.mark.soak
def test_the_watchdog_looks_as_often_as_that(start):
    far = start("hungry:Holder", memory_fraction=0.05)
    near = start("hungry:Holder", options={"mib": 190}, memory_fraction=0.02)
    time.sleep(0.2)
    assert looks(near) > 2 * looks(far)


def looks(plugin):
    """Return how often it was measured in half a second."""
    book = plugin._group._account
    seen, until = set(), time.monotonic() + 0.5
    while time.monotonic() < until:
        seen.add(book.look_at)
        time.sleep(0.0005)
    return len(seen)
