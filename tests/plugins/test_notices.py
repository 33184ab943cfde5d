"""Each kind of attempt is told once, whichever plugin made it and however often."""

from types import SimpleNamespace

from ringfence.plugins.interface import PluginUsage
from ringfence.plugins.notices import PluginNews, describe_denials


def plugin(name, attempts):
    return SimpleNamespace(spec=SimpleNamespace(name=name), usage=PluginUsage(attempts=attempts))


def test_each_kind_is_told_once_for_each_plugin():
    events = []
    news = PluginNews(events.append)
    odd, other = plugin("odd", {}), plugin("other", {"open a connection (socket)": 1})
    news.tell(odd)
    assert events == []
    for attempts in (
        {"start another process (vfork)": 1},
        {"start another process (vfork)": 1, "start another process (clone)": 1},
        {
            "start another process (vfork)": 7,
            "start another process (clone)": 7,
            "open a connection (bind)": 1,
        },
    ):
        odd.usage.attempts = attempts
        news.tell(odd)
        news.tell(odd)
    news.tell(other)
    assert events == [
        "plugin 'odd' tried to start another process (vfork); refused",
        "plugin 'odd' tried to open a connection (bind); refused",
        "plugin 'other' tried to open a connection (socket); refused",
    ]


def test_nothing_is_told_where_nothing_can_be():
    events = []
    PluginNews(events.append).tell(plugin("trusted", None))
    assert events == []


def test_numbers_are_told_where_there_was_more_than_one():
    assert describe_denials({"raise its limits (prlimit64)": 1, "start a program (execve)": 3}) == [
        "raise its limits (prlimit64)",
        "start a program (execve), 3 times",
    ]
