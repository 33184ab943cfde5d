"""Monitors of third parties that use what came with 0.4: accepted behind a guard, and without it told one."""

import textwrap

import pytest

from ringfence.discovery.catalog import catalog, judge, source_of
from ringfence.hooks.series import Index
from ringfence.version import __version__

from .series import install

MONITOR = """\
from ringfence import passthrough


class Watch:
    role = "monitor"
    forward = passthrough

    def backward({arguments}):
        if step.global_step > 3:
{body}
"""
GUARDED = {
    "hasattr": ("self, step, metrics=None", 'if hasattr(step, "ask"):\n    step.ask("stop")'),
    "getattr": ("self, step, metrics=None", 'getattr(step, "ask", print)("evaluate")'),
    "caught": ("self, step", 'try:\n    step.ask("stop")\nexcept AttributeError:\n    pass'),
}
UNGUARDED = {
    "ask": (
        "self, step, metrics=None",
        'step.ask("stop")',
        "E-ATTR",
        10,
        "StepInfo has no 'ask'",
        "getattr(step, 'ask', default)",
    ),
    "metrics": (
        "self, step, metrics",
        "pass",
        "E-ARG",
        8,
        "'metrics' is not an argument of monitor_backward",
        "drop 'metrics' or give it a default",
    ),
}


@pytest.fixture
def judged(tmp_path):
    def judge_monitor(arguments, body):
        text = MONITOR.format(arguments=arguments, body=textwrap.indent(body, " " * 12))
        install(
            tmp_path,
            requires=("ringfence>=0.2",),
            text=text,
            points="watch = acme_watch:Watch",
            module="acme_watch",
        )
        plugin = catalog([str(tmp_path)]).find("watch")
        return judge(plugin, source_of(plugin), Index.read(), __version__)

    return judge_monitor


@pytest.mark.parametrize("case", GUARDED)
def test_what_is_new_is_accepted_behind_a_guard(judged, case):
    verdict = judged(*GUARDED[case])
    assert verdict.decision == "accepted", verdict.message()


@pytest.mark.parametrize("case", UNGUARDED)
def test_without_one_it_is_refused_with_file_line_and_the_guard_to_write(judged, tmp_path, case):
    arguments, body, rule, line, text, advice = UNGUARDED[case]
    verdict = judged(arguments, body)
    assert verdict.decision == "refused"
    (finding,) = [finding for finding in verdict.findings if finding.refuses]
    assert (finding.rule, finding.series, finding.line) == (rule, ("0.2", "0.3"), line)
    assert finding.path == tmp_path / "acme_watch.py"
    assert text in finding.text
    assert advice in finding.advice
    assert f"acme_watch.py:{line}" in verdict.message()
