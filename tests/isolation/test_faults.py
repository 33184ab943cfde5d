"""Every way to fail is named with plugin, hook, step and cause; the next plugin is not disturbed."""

from pathlib import Path

import pytest

from ringfence import (
    PluginCrashedError,
    PluginLoadError,
    PluginMemoryError,
    PluginProtocolError,
    PluginRaisedError,
    PluginTimeoutError,
    StepInfo,
)
from ringfence.hooks.errors import load_exception
from ringfence.isolation.host.limits import worker_process
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.transient_errors import is_transient


def at(fault, line=2):
    """Return where a fault is: a line of its method."""
    path = Path(__file__).parent / "plugins" / "faulty.py"
    return f"{path}:{path.read_text().splitlines().index(f'    def do_{fault}(self, gradients):') + line}"


#: One of each kind; the whole table of them is that of the hostile plugins.
FAULTS = [
    ("raise", PluginRaisedError, "raised RuntimeError: the plugin's own fault"),
    ("raise", PluginRaisedError, f'({at("raise")}: raise RuntimeError("the plugin\'s own fault"))'),
    ("raise_in_torch", PluginRaisedError, f"({at('raise_in_torch')}: torch.nn.functional.smooth_l1_loss("),
    ("abort", PluginCrashedError, f"ended by SIGABRT ({at('abort')})"),
    ("write_input", PluginCrashedError, f"ended by SIGSEGV ({at('write_input')})"),
    ("write_input", PluginCrashedError, "may only be read, so start from its .clone()"),
    ("write_input_in_torch", PluginCrashedError, f"ended by SIGSEGV ({at('write_input_in_torch')})"),
    ("hang", PluginTimeoutError, "no reply within 1 s"),
    ("nan", PluginProtocolError, "gradient 'weight' with a value that is not finite"),
    ("bad_bytes", PluginProtocolError, "not a message of this protocol"),
]


@pytest.fixture(scope="module")
def sandbox():
    """Return a sandbox whose zygote may be killed."""
    with Sandbox() as running:
        yield running


@pytest.mark.parametrize(("fault", "error", "says"), FAULTS, ids=str)
def test_a_fault_is_named_and_contained(start, gradients, fault, error, says):
    neighbour = start("obedient:Halve")
    plugin = start("faulty:Faulty", options={"fault": fault, "at": 7}, deadline_s=1.0)
    assert plugin.call("backward", {"gradients": gradients}, StepInfo(6)) is None
    with pytest.raises(error) as caught:
        plugin.call("backward", {"gradients": gradients}, StepInfo(7))
    assert (caught.value.plugin, caught.value.hook, caught.value.step) == ("faulty", "gradient.backward", 7)
    assert says in str(caught.value)
    assert neighbour.call("backward", {"gradients": gradients}, StepInfo(7)) is not None
    plugin.restart()
    assert plugin.call("backward", {"gradients": gradients}, StepInfo(8)) is None


@pytest.mark.parametrize(("fault", "passes"), [("time_out", True), ("miss", False), ("raise", False)])
def test_what_the_system_may_be_at_fault_for_is_known_as_such(start, gradients, fault, passes):
    plugin = start("faulty:Faulty", options={"fault": fault, "at": 0})
    with pytest.raises(PluginRaisedError) as caught:
        plugin.call("backward", {"gradients": gradients}, StepInfo(0))
    assert is_transient(caught.value) is passes


def test_one_that_hangs_is_asked_where(start, gradients, monkeypatch):
    monkeypatch.setattr(worker_process, "LAST_WORDS_S", 30.0)
    plugin = start("faulty:Faulty", options={"fault": "hang"}, deadline_s=0.5)
    with pytest.raises(PluginTimeoutError) as caught:
        plugin.call("backward", {"gradients": gradients}, StepInfo(0))
    assert f"its worker was killed ({at('hang', 3)}). Raise deadline_s" in str(caught.value)


def test_a_leak_is_told_with_its_figures(start, gradients):
    plugin = start("faulty:Faulty", options={"fault": "leak_torch"}, memory_fraction=0.02)
    budget = plugin.usage.budget_bytes
    with pytest.raises(PluginMemoryError) as caught:
        plugin.call("backward", {"gradients": gradients}, StepInfo(0))
    error = caught.value
    assert error.hook == "gradient.backward"
    assert 0.9 * budget <= error.used_bytes <= 1.02 * budget
    assert error.limit_bytes == budget
    assert error.enforced_by == "RLIMIT_DATA"
    assert "MiB of its" in str(error)
    assert plugin.usage.peak_bytes <= 1.02 * budget


def test_a_plugin_cannot_blind_the_watchdog_with_its_name(sandbox, start, gradients):
    plugin = start("faulty:Faulty", options={"fault": "rename_and_leak"}, memory_fraction=0.02)
    with pytest.raises(PluginMemoryError):
        plugin.call("backward", {"gradients": gradients}, StepInfo(0))
    assert sandbox.watchdog.is_alive()
    assert plugin.usage.peak_bytes > 0


def test_a_constructor_that_raises_is_told_with_its_traceback(start):
    with pytest.raises(PluginLoadError, match=r"(?s)ValueError: lr must be positive.*faulty\.py"):
        start("faulty:ImportFault")


def test_a_plugin_that_does_not_start_in_time_is_killed(start):
    with pytest.raises(PluginTimeoutError, match="no reply within 1 s"):
        start("faulty:SlowStart", start_deadline_s=1.0)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("faulty:Nobody", "has no attribute 'Nobody'"),
        ("nowhere:Faulty", "No module named 'nowhere'"),
        ("faulty:WrongRole", "role is 'monitor', not 'gradient'"),
        ("faulty:NoBackward", "has no backward"),
    ],
)
def test_what_cannot_be_loaded_says_why(start, where, says):
    with pytest.raises(PluginLoadError, match=says):
        start(where)


@pytest.mark.parametrize(
    ("where", "options", "raised"),
    [
        ("faulty:Faulty", {"odd": 1}, ("TypeError", "unexpected keyword argument 'odd'", "constructor")),
        ("faulty:WrongRole", {}, ("TypeError", "role is 'monitor'", "import")),
        ("nowhere:Faulty", {}, ("ModuleNotFoundError", "No module named 'nowhere'", "import")),
    ],
)
def test_what_was_raised_and_when_is_told_by_name(start, where, options, raised):
    with pytest.raises(PluginLoadError) as caught:
        start(where, options=options)
    error_type, message, during = load_exception(caught.value)
    assert (error_type, during) == (raised[0], raised[2])
    assert raised[1] in message
    assert str(caught.value).endswith(f"could not be loaded: {error_type}: {message}")


def test_a_budget_too_small_to_start_in_is_refused(start):
    with pytest.raises(PluginLoadError, match="use fewer workers or a larger memory_fraction"):
        start("obedient:Brighten", role="augment", memory_fraction=0.005, workers=4)


def test_the_zygote_is_replaced_when_it_was_killed(sandbox, start, gradients):
    plugin = start("obedient:Halve")
    sandbox._zygote.kill()
    sandbox._zygote.wait()
    with pytest.raises(PluginCrashedError, match="the process that forked it too"):
        plugin.call("backward", {"gradients": gradients}, StepInfo(0))
    plugin.restart()
    assert plugin.call("backward", {"gradients": gradients}, StepInfo(0)) is not None
