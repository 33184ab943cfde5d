"""A fault over what no plugin may do says why it cannot be, and what to do instead; no other fault does."""

import errno
import traceback

import pytest

import ringfence
from ringfence import PluginRaisedError, StepInfo
from ringfence.hooks.permissions import Permissions, Target
from ringfence.isolation.host.grants.grant_advice import what_instead

PROCESSES = "a plugin has one process, which starts no other and no program"
COMPILES = "leave it out, or pass backend='aot_eager'"
OFFLINE = "Get files before the run, and have the job grant them (read: [PATH])"
EVENTS = "the loop of asyncio needs sockets"
WANTED = {
    "compile": COMPILES,
    "run_a_program": PROCESSES,
    "run_it_and_wrap_the_error": PROCESSES,
    "fork": PROCESSES,
    "pool": PROCESSES,
    "spawn": PROCESSES,
    "executor": PROCESSES,
    "loader": PROCESSES,
    "download": OFFLINE,
    "hub": OFFLINE,
    "name": OFFLINE,
    "address": OFFLINE,
    "events": EVENTS,
}


def fault(start, gradients, what):
    with pytest.raises(PluginRaisedError) as caught:
        # What it imports of torch on the way is compiled from source.
        start("wanting:Wanting", options={"what": what}, deadline_s=150.0).call(
            "backward", {"gradients": gradients}, StepInfo(0)
        )
    return str(caught.value)


@pytest.mark.parametrize(
    ("what", "instead"),
    [
        # What it imports is compiled from source, for 20 s.
        pytest.param(what, instead, marks=pytest.mark.room if what == "compile" else ())
        for what, instead in WANTED.items()
    ],
)
def test_what_no_plugin_may_do_is_told_with_what_to_do_instead(start, gradients, what, instead):
    assert instead in fault(start, gradients, what)


@pytest.mark.parametrize("what", ["connect", "other", "other_file"])
def test_other_faults_are_told_without(start, gradients, what):
    told = fault(start, gradients, what)

    assert not [instead for instead in WANTED.values() if instead in told]


@pytest.mark.room
@pytest.mark.parametrize("what", ["compile_nothing", "loader_without_workers"])
def test_what_is_advised_works(start, gradients, what):
    start("wanting:Wanting", options={"what": what}).call("backward", {"gradients": gradients}, StepInfo(0))


def test_a_grant_to_connect_is_told_to_hold_for_connect_alone():
    cause = "URLError: <urlopen error [Errno -3] Temporary failure in name resolution>"
    granted = Permissions((), (), (Target("example.com", 443),))

    assert "ringfence.connect(host, port) alone" in what_instead(cause, "", granted)
    assert OFFLINE in what_instead(cause, "", Permissions())


def test_what_connect_itself_says_is_told_without(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EHOSTUNREACH, "the name cannot be looked up: Name or service not known")

    monkeypatch.setattr("ringfence.hooks.connect._Route.opener", refuse)
    granted = Permissions((), (), (Target("a.test", 443),))
    with pytest.raises(OSError, match="looked up") as caught:
        ringfence.connect("a.test", 443)
    told = "".join(traceback.format_exception(caught.value))

    assert what_instead(f"OSError: {caught.value}", told, granted) == ""
    assert "connect(host, port) alone" in what_instead(f"OSError: {caught.value}", "", granted)


@pytest.mark.parametrize(
    "told",
    ["", 'File "/usr/lib/python3.11/subprocess.py", line 1', 'File "/site/torch/_inductor/a.py", line 1'],
)
def test_nothing_is_advised_where_nothing_was_refused(told):
    tried = ("start another process (vfork)", "open a connection (socket)")
    assert what_instead("ValueError: no", told, Permissions(), tried) == ""
    assert what_instead("CalledProcessError: status 1", told, Permissions(), tried) == ""
