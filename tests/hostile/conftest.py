"""The scene of every attack: a sandbox, things to steal and to harm, and a small run that must not notice."""

import os
import shutil
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from .harm import Naive
from .stage import Stage

_KINDS = ("attack", "control")


@pytest.fixture(scope="session")
def stage(request):
    """Return one stage for all attacks: its zygote takes seconds to start, an attacker milliseconds."""
    # Not below a folder that tests of other users may not enter.
    folder = Path(tempfile.mkdtemp(prefix="ringfence-hostile-"))
    failed = request.session.testsfailed
    with Stage(folder) as stage:
        yield stage
    if request.session.testsfailed == failed:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def naive(stage):
    """Return trainers without a sandbox, for what attacks do to those."""
    with closing(Naive(stage.aim())) as naive:
        yield naive


def pytest_collection_modifyitems(items):
    for item in items:
        for kind in _KINDS:
            if (marker := item.get_closest_marker(kind)) is not None:
                item.user_properties.append((kind, str(marker.args[0])))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """Print what was tried, what was contained, which controls succeeded, and what was not run and why."""
    tally = Tally()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            if hasattr(report, "user_properties"):
                tally.count(outcome, report)
    if tally.numbers["attack"]:
        terminalreporter.section("hostile plugins")
        for line in tally.lines():
            terminalreporter.write_line(line)
    if tally.elsewhere:
        terminalreporter.section("hostile plugins, as others and elsewhere")
        for line in tally.elsewhere:
            terminalreporter.write_line(line)


class Tally:
    """Counts by kind of test."""

    def __init__(self):
        self.numbers = {kind: {} for kind in _KINDS}
        self.attempts = Counter()
        self.reasons = []
        self.elsewhere = []

    def count(self, outcome, report):
        for kind, value in report.user_properties:
            if kind in _KINDS:
                # An attack of several tests is contained if all of them say so.
                self.numbers[kind].setdefault(value, set()).add(outcome)
                if outcome == "skipped":
                    self.reasons.append(f"{kind} {value}: {report.longrepr[2].removeprefix('Skipped: ')}")
            elif kind.startswith("attempts"):
                self.attempts[kind] += value
            elif kind == "context":
                self.elsewhere.append(value)
            elif kind == "no control":
                self.reasons.append(f"control {value}")

    def lines(self):
        attacks, controls = self.numbers["attack"], self.numbers["control"]
        contained = sum(outcomes == {"passed"} for outcomes in attacks.values())
        succeeded = sum(outcomes == {"passed"} for outcomes in controls.values())
        made = f"{self.attempts['attempts']} attempts"
        yield f"user {os.geteuid()}: {len(attacks)} attacks ({made}) tried, {contained} contained"
        yield (
            f"without a sandbox: {succeeded} of {len(controls)} attacks succeeded "
            f"({self.attempts['attempts in control']} attempts)"
        )
        yield f"not run here: {len(self.reasons)}"
        yield from (f"  {reason}" for reason in sorted(self.reasons))
