"""What a plugin's fault costs: the time until the run goes on, steps, snapshots and memory.

    python bench/recovery.py [--faults N] [--json FILE]

Trains real jobs with plugins in their sandboxes. Signals come from another process, which also looks at
the memory. Every run must end with the weights of one without faults. The defaults are for a look: some
80 s on two idle cores; --faults 20 takes five minutes.
"""  # fmt: skip

from __future__ import annotations

import argparse
import functools
import json
import math
import signal
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from anew import run_anew
from jobs import HIDDEN, Case, Outcome, augment, faulty, parameter_bytes, run, usual
from outside import Outside
from phases import PARTS, Fault

from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.interface import PluginSpec

#: What a recovery may take, in seconds, the replay not counted.
PROMISED_S = 0.2
#: One fault in so many steps, and steps between two snapshots, for the table of cadences.
RATES = (1_000, 10_000, 100_000)
CADENCES = (10, 30, 100, 300, 1_000)
DEADLINE_S = 0.5
Run = Callable[[str, Sequence[PluginSpec], Sequence[Case]], Outcome]


def recoveries(run: Run, count: int) -> dict[str, list[Fault]]:
    """Make every plugin fail in every way; return the faults by what they were."""
    few = max(count // 4, 1)
    some = max(count // 2, 1)
    jobs: list[tuple[str, list[PluginSpec], list[tuple[str, str, int]], int]] = [
        (
            "1 M",
            [augment(["flip", "affine"]), *usual()],
            [(name, "killed", signal.SIGKILL) for name in ("augment", "gradclip", "optim", "monitor")],
            count,
        ),
        (
            "1 M",
            [
                *(faulty(kind) for kind in ("raise", "exit", "memory")),
                faulty("hang", deadline_s=DEADLINE_S),
                *usual("lamb")[1:2],
            ],
            [
                ("faulty-raise", "raises", signal.SIGUSR1),
                ("faulty-exit", "exits", signal.SIGUSR1),
                ("faulty-memory", "asks for too much memory", signal.SIGUSR1),
                ("faulty-hang", "hangs, from its deadline on", signal.SIGUSR1),
                ("optim", "lamb, segfault", signal.SIGSEGV),
            ],
            some,
        ),
        ("1 M", [augment(["flip", "affine"], 4), *usual()], [("augment", "4 workers", signal.SIGKILL)], some),
        ("1 M", [augment(["GaussNoise"]), *usual()], [("augment", "albumentations", signal.SIGKILL)], some),
        (
            "1 M",
            [augment(["GaussNoise"], 4), *usual()],
            [("augment", "albumentations, 4 workers", signal.SIGKILL)],
            few,
        ),
    ]
    found: dict[str, list[Fault]] = {}
    for size, specs, kinds, times in jobs:
        cases = [Case(name, how, number) for _ in range(times) for name, how, number in kinds]
        for case, fault in zip(cases, run(size, specs, cases).faults, strict=True):
            found.setdefault(f"{case.plugin}: {case.how}, {size}", []).append(fault)
    return found


def large(run: Run, count: int) -> tuple[dict[str, list[Fault]], dict[str, Outcome]]:
    """Do it with few and many parameters, and keep what was seen of snapshots and memory."""
    found: dict[str, list[Fault]] = {}
    outcomes = {}
    for size in HIDDEN:
        cases = [Case(name, "killed", signal.SIGKILL) for _ in range(count) for name in ("gradclip", "optim")]
        outcomes[size] = run(size, usual(), cases)
        if size != "1 M":
            for case, fault in zip(cases, outcomes[size].faults, strict=True):
                found.setdefault(f"{case.plugin}: killed, {size}", []).append(fault)
    return found, outcomes


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below one another."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    sys.stdout.write(f"\n{title}\n")
    for line in lines:
        cells = [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    sys.stdout.flush()


def tell_recoveries(found: dict[str, list[Fault]]) -> dict[str, Any]:
    """Print where the time went; return it."""
    figures = {}
    for what, faults in found.items():
        parts = [fault.parts() for fault in faults]
        figures[what] = {
            "faults": len(faults),
            "steps_lost": statistics.mean(fault.steps_lost for fault in faults),
            "median_s": {name: statistics.median(each[name] for each in parts) for name in parts[0]},
            "max_s": max(each["total"] for each in parts),
            "alone_max_s": max(each["alone"] for each in parts),
        }
    head = ("fault", "n", *PARTS, "median", "max", "alone", "max")
    rows = []
    for what, each in figures.items():
        medians = each["median_s"]
        times = [medians[name] for name in (*PARTS, "total")]
        times += [each["max_s"], medians["alone"], each["alone_max_s"]]
        rows.append((what, str(each["faults"]), *(f"{1000 * seconds:.0f}" for seconds in times)))
    table("From a fault until the run is ready to take the next step, in ms (medians)", head, rows)
    sys.stdout.write(
        "'alone' leaves out the time in which other processes had the processor, as the kernel counts it.\n"
    )
    slow = [what for what, each in figures.items() if each["median_s"]["alone"] > PROMISED_S]
    if slow:
        sys.stdout.write(f"Over {1000 * PROMISED_S:.0f} ms: {'; '.join(slow)}\n")
    return figures


def tell_cadence(outcomes: dict[str, Outcome], recover_s: float) -> dict[str, Any]:
    """Print what snapshots cost, and which cadence would cost least."""
    figures: dict[str, Any] = {}
    for size, outcome in outcomes.items():
        snapshot_s = statistics.median(seconds for _, seconds in outcome.snapshots[1:])
        step_s = outcome.step_s
        best = {rate: math.sqrt(2 * rate * snapshot_s / step_s) for rate in RATES}
        figures[size] = {"snapshot_s": snapshot_s, "step_s": step_s, "best": best}
        rows = []
        for cadence in CADENCES:
            costs = [
                snapshot_s / (cadence * step_s) + (cadence / 2 + recover_s / step_s) / rate for rate in RATES
            ]
            rows.append((f"every {cadence} steps", *(f"{100 * cost:.2f} %" for cost in costs)))
        rows.append(("best", *(f"{each:.0f} steps" for each in best.values())))
        table(
            f"{size}: a snapshot takes {1000 * snapshot_s:.0f} ms, a step {1000 * step_s:.0f} ms. "
            "Snapshots, replay and recovery as a share of the run, with a fault in",
            ("", *(f"{rate:,} steps" for rate in RATES)),
            rows,
        )
    return figures


def tell_memory(outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """Print the memory of trainer and workers in units of the parameters' bytes."""
    figures: dict[str, Any] = {}
    rows = []
    for size, outcome in outcomes.items():
        unit = parameter_bytes(size)
        figures[size] = {"parameter_bytes": unit}
        for when, peaks in outcome.memory().items():
            figures[size][when] = peaks
            rows.append(
                (f"{size} ({unit / 1e6:.0f} MB), {when}", *(f"{v / unit:.1f}" for v in peaks.values()))
            )
    head = ("", "trainer", "shared", "workers", "together")
    table(
        "Most memory, beyond that before the model was built, in units of the parameters' bytes", head, rows
    )
    sys.stdout.write(
        "The snapshot itself: parameters 1 and AdamW's state 2; while a new one is taken, both are there.\n"
    )
    return figures


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--faults", type=int, default=3, help="of each kind; 20 or more for figures to compare"
    )
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    arguments = parser.parse_args()
    count = arguments.faults
    with Sandbox(plugins=5) as sandbox, Outside() as outside:
        found = recoveries(functools.partial(run, sandbox, outside), count)
        more, outcomes = large(functools.partial(run, sandbox, outside, sampled=True), max(count // 5, 2))
    figures: dict[str, Any] = {"recovery": tell_recoveries(found | more)}
    medians = [each["median_s"]["total"] for each in figures["recovery"].values()]
    seconds, steps = run_anew(HIDDEN["1 M"])
    figures["anew"] = {"seconds": seconds, "steps_lost": steps}
    sys.stdout.write(
        f"\nThe whole command anew, without isolation, from the last checkpoint: {1000 * seconds:.0f} ms and "
        f"{steps} steps; a plugin in its sandbox: {1000 * statistics.median(medians):.0f} ms (median)\n"
    )
    figures["cadence"] = tell_cadence(outcomes, statistics.median(medians))
    figures["memory"] = tell_memory(outcomes)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
