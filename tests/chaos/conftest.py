"""One harness for all runs under faults, and what they came to as the tests' last words."""

import os
import shutil
import statistics
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from . import schedule
from .harness import Harness
from .verdict import injected

RUNS = pytest.StashKey()
#: Seeds to run besides: ``RINGFENCE_CHAOS_SEEDS="17 40-49" pytest -m room tests/chaos -k also``.
ALSO = "RINGFENCE_CHAOS_SEEDS"
#: They have few ends of the trainer, of which each costs seconds for a start, and yet of every kind.
_SEEDS = range(5785, 5815)
_SOAK_SEEDS = range(1000, 1300)


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        seeds = [pytest.param(seed, id=f"seed-{seed}") for seed in _SEEDS]
        seeds += [pytest.param(seed, id=f"seed-{seed}", marks=pytest.mark.soak) for seed in _SOAK_SEEDS]
        seeds += [pytest.param(seed, id=f"also-{seed}") for seed in _also()]
        metafunc.parametrize("seed", seeds)


def _also():
    for word in os.environ.get(ALSO, "").split():
        first, _, last = word.partition("-")
        yield from range(int(first), int(last or first) + 1)


@pytest.fixture(scope="session")
def harness(request):
    """Return the harness, at work on the runs of all the tests that were chosen."""
    # Not below a folder that belongs to pytest: what a plugin may write to must not be hidden from it.
    folder = Path(tempfile.mkdtemp(prefix="ringfence-chaos-"))
    harness = Harness(folder)
    chosen = [item for item in request.session.items if item.path.parent == Path(__file__).parent]
    planned = [schedule.draw(item.callspec.params["seed"]) for item in chosen if "seed" in item.fixturenames]
    for mix in sorted({each.mix for each in planned}):
        harness.ask_reference(mix)
    for each in planned:
        harness.ask(f"seed-{each.seed}", each)
    failed = request.session.testsfailed
    yield harness
    harness.close()
    if request.session.testsfailed == failed:
        shutil.rmtree(folder)


@pytest.fixture
def tell_run(request):
    """Take what became of a run, and what is wrong with it, for the summary."""
    return request.config.stash.setdefault(RUNS, []).append


def pytest_terminal_summary(terminalreporter, config):
    runs = config.stash.get(RUNS, [])
    if runs:
        terminalreporter.section("runs under faults")
        for line in summary(runs):
            terminalreporter.line(line)


def summary(runs):
    """Yield what came of runs, each an outcome and what is wrong with it."""
    names = Counter(name for outcome, _ in runs for name in injected(outcome))
    groups = Counter(_ending(outcome, faults) for outcome, faults in runs)
    ended = "  ".join(f"{name} {count}" for name, count in sorted(groups.items()))
    differ = sum(any("differs" in fault for fault in faults) for _, faults in runs)
    starts = sum(len(outcome["attempts"]) for outcome, _ in runs)
    yield f"{len(runs)} runs in {starts} starts of the trainer, {names.total()} faults of {len(names)} kinds"
    yield f"{ended}  differ {differ}"
    lost = sorted(steps for outcome, _ in runs for steps in outcome["lost"])
    if lost:
        yield (
            f"steps to take again, {len(lost)} times: median {statistics.median(lost):g}, mean "
            f"{statistics.mean(lost):.1f}, most {lost[-1]}; {sum(lost) / names.total():.1f} for each fault"
        )
    seconds = sorted(
        fault["recovery_s"]
        for outcome, _ in runs
        for fault in outcome["record"].get("faults", [])
        if fault.get("decision") == "restarted"
    )
    if seconds:
        yield (
            f"plugins started anew {len(seconds)} times: median {statistics.median(seconds) * 1000:.0f} ms, "
            f"most {seconds[-1] * 1000:.0f} ms"
        )
    kinds = Counter()
    for name, count in names.items():
        kinds[_group(name)] += count
    yield "  ".join(f"{kind} {count}" for kind, count in kinds.most_common())


def _group(name):
    kind, _, rest = name.partition(" ")
    where = "in a plugin" if rest.startswith("in ") else rest
    return f"{kind} {where}"


def _ending(outcome, faults):
    if faults:
        return "failed"
    if not outcome["injected"]:
        return "not touched"
    if len(outcome["attempts"]) == 1:
        return "recovered"
    return "stopped and resumed" if outcome["anew"] == 0 else "ended as they began, and begun anew"
