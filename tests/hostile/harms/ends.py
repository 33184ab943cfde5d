"""Processes that hang, end, or leave something behind."""

from ringfence import (
    PluginCrashedError,
    PluginError,
    PluginProtocolError,
    PluginRaisedError,
    PluginTimeoutError,
)

from ..harm import Harm

_CRASHED, _RAISED, _TIMED_OUT = (PluginCrashedError,), (PluginRaisedError,), (PluginTimeoutError,)
#: Met in the first call, so that no call that does no harm has to be in time.
_SOON = {"settings": {"deadline_s": 0.5}, "step": 0}


def _hangs(number, name, **settings):
    says = "no reply within 0.5 s; its worker was killed"
    return Harm(
        number,
        f"hangs:{name}",
        _TIMED_OUT,
        says,
        {"ended": "hung"},
        seconds=0.5,
        **_SOON,
        **settings,
    )


def _crashes(name, signal_name):
    says = f"its worker was ended by {signal_name}"
    return Harm(39, f"crashes:{name}", _CRASHED, says, {"ended": signal_name})


_BOMBED = "thread"

HARMS = (
    *(
        _hangs(37, name)
        for name in (
            *("spin", "sleep", "hold_the_interpreter", "backtrack"),
            *("deadlock", "wait_for_itself", "stop_itself"),
        )
    ),
    _hangs(38, "ignore_signals"),
    Harm(
        38,
        "hangs:become_a_daemon",
        _TIMED_OUT,
        "no reply within 0.5 s",
        {"left": 1},
        **_SOON,
        seconds=0.5,
    ),
    _crashes("segfault", "SIGSEGV"),
    _crashes("abort", "SIGABRT"),
    _crashes("bus_error", "SIGBUS"),
    _crashes("divide_by_zero", "SIGFPE"),
    _crashes("illegal_instruction", "SIGILL"),
    _crashes("overflow_the_stack", "SIGSEGV"),
    _crashes("kill_itself", "SIGKILL"),
    Harm(39, "crashes:leave", _CRASHED, "exited with status 0", {"ended": "exited 0"}),
    Harm(
        39,
        "crashes:leave_with_a_word",
        _CRASHED,
        "exited with status 7; it last printed:\n    about to leave",
        {"ended": "exited 7"},
    ),
    Harm(39, "crashes:exit_system", _RAISED, "raised SystemExit: 3", {"ended": "exited 3"}),
    Harm(
        39,
        "crashes:reply_and_leave",
        _CRASHED,
        "exited with status 0",
        no_control="a trainer that calls the plugin gets no reply; see crashes:leave",
        step=2,
    ),
    Harm(
        39,
        "crashes:leave_mid_reply",
        (PluginProtocolError,),
        "not a message of this protocol",
        no_control="a trainer that calls the plugin gets no reply; see crashes:leave",
    ),
    Harm(40, "remains:threads", (), naive={"threads": 21}),
    Harm(40, "remains:zombies", (), naive={"left": 10}),
    Harm(40, "remains:orphans", (), naive={"left": 10}),
    Harm(
        40,
        "remains:no_main_thread",
        (PluginError,),
        "main thread had ended|no reply within 0.5 s",
        {"ended": "hung"},
        **_SOON,
    ),
    Harm(
        20,
        "remains:thread_bomb",
        (PluginCrashedError, PluginRaisedError),
        _BOMBED,
        {"threads": 3000},
        limit_s=10.0,
    ),
    Harm(
        20,
        "remains:stubborn_thread_bomb",
        (PluginCrashedError, PluginTimeoutError),
        f"{_BOMBED}|no reply within 0.5 s",
        {"threads": 3000},
        **_SOON,
        limit_s=10.0,
    ),
    Harm(
        20,
        "remains:native_thread_bomb",
        (PluginCrashedError, PluginTimeoutError),
        f"{_BOMBED}|no reply within 0.5 s",
        {"threads": 3000},
        **_SOON,
        limit_s=10.0,
    ),
)
