"""Row 6: how long a plugin takes to start and what it keeps, and how long the command takes to answer."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import installed
from harness import Figure, Goal, Row, Table, in_turn

from ringfence.isolation.host.isolated_plugin import IsolatedPlugin
from ringfence.isolation.host.processes.worker_group import WorkerGroup
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.interface import MAX_FRACTION_TOGETHER, PluginSpec

_EACH_S, _PRIVATE_MIB, _HELP_S, _LIST_S = 0.120, 12.0, 0.150, 0.300
_MAX_FRACTION = 0.15
_PLUGINS = 20
_START_S = 300.0

#: A plugin that imports nothing but ringfence.
_QUIET = """\
from ringfence import passthrough


class Quiet:
    role = "gradient"
    backward = passthrough

    def forward(self, batch, outputs, loss, step):
        return None
"""
_SPAWNED = "import sys, torch; print(torch.__version__, flush=True); sys.stdin.read()"
_LIGHTNING = """\
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LightningCLI


class Model(LightningModule):
    def __init__(self, hidden: int = 64, lr: float = 1e-3) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(hidden, 1)


if __name__ == "__main__":
    LightningCLI(Model)
"""


def measure(quick: bool) -> list[Table]:  # noqa: FBT001 - as all rows
    """Start plugins beside processes that import torch; ask the command beside Lightning's."""
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as made:
        folder = Path(made)
        return [_plugins(folder, quick=quick), _imports(folder, quick=quick), _commands(folder, quick=quick)]


# plugins


def _plugins(folder: Path, *, quick: bool) -> Table:
    columns = (
        "started together",
        "a plugin",
        "private MiB each",
        "import torch, spawned",
        "private MiB each",
    )
    table = Table("Start of plugins, for each; the process that they are forked from runs", columns)
    # Processes that import torch: as many as memory and patience allow.
    for count, rounds, spawned in ((1, 2, 1), (8, 1, 8)) if quick else ((1, 7, 1), (8, 3, 8), (32, 3, 8)):
        memory: dict[str, list[float]] = {"plugins": [], "processes": []}
        with _quiet_plugins(folder, count) as (sandbox, specs):
            sides = {
                "plugins": lambda s=sandbox, p=specs, m=memory: _start_plugins(s, p, m["plugins"]),
                "processes": lambda n=spawned, m=memory: _start_processes(n, m["processes"]),
            }
            figures = in_turn(sides, rounds)
        private = {name: Figure(tuple(values), "MiB") for name, values in memory.items()}
        label = str(count) if spawned == count else f"{count} ({spawned} spawned)"
        table.lines.append(
            (label, figures["plugins"], private["plugins"], figures["processes"], private["processes"])
        )
        table.goals += [
            Goal(f"{count} at once: at most {_EACH_S * 1e3:.0f} ms each", figures["plugins"].median, _EACH_S),
            Goal(
                f"{count} at once: at most {_PRIVATE_MIB:.0f} MiB each", max(memory["plugins"]), _PRIVATE_MIB
            ),
        ]
    table.notes.append(
        "Private is Private_Clean + Private_Dirty of smaps_rollup, the pages that no other process has: "
        "what a plugin was forked with and has not written to is not its own. "
        "Time from the request to a plugin that is locked up, probed and loaded."
    )
    return table


@contextmanager
def _quiet_plugins(folder: Path, count: int) -> Iterator[tuple[Sandbox, list[PluginSpec]]]:
    """Yield a sandbox whose zygote runs, and what to start in it."""
    code = folder / "plugins"
    code.mkdir(exist_ok=True)
    (code / "quiet_plugin.py").write_text(_QUIET)
    specs = [
        PluginSpec(
            name=f"quiet-{number}",
            distribution="quiet",
            version="1",
            module="quiet_plugin",
            qualname="Quiet",
            role="gradient",
            memory_fraction=min(_MAX_FRACTION, MAX_FRACTION_TOGETHER / count),
            search_path=(str(code),),
            readable=(str(code),),
        )
        for number in range(count)
    ]
    with Sandbox(plugins=count) as sandbox:
        sandbox.start(specs[0]).close()
        yield sandbox, specs


def _start_plugins(sandbox: Sandbox, specs: Sequence[PluginSpec], memory: list[float]) -> float:
    """Return how long one of them took."""
    started: list[IsolatedPlugin] = []
    try:
        began = time.perf_counter()
        started += [sandbox.start(spec) for spec in specs]
        seconds = time.perf_counter() - began
        assert all(set(plugin.accepts) == {"forward"} for plugin in started)
        pids = [worker.channel.process.pid for plugin in started for worker in plugin._group.workers]
        memory.append(_private_mib(pids))
        return seconds / len(specs)
    finally:
        for plugin in started:
            plugin.close()


def _start_processes(count: int, memory: list[float]) -> float:
    """Start as many that import torch, and return how long one of them took."""
    import torch  # noqa: PLC0415 - for its version only

    began = time.perf_counter()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _SPAWNED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    try:
        told = [process.stdout.readline().strip() if process.stdout else "" for process in processes]
        seconds = time.perf_counter() - began
        assert told == [torch.__version__] * count
        memory.append(_private_mib([process.pid for process in processes]))
        return seconds / count
    finally:
        for process in processes:
            process.communicate(timeout=_START_S)


def _private_mib(pids: Sequence[int]) -> float:
    """Return the memory that each of the processes shares with no other, on average."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean:", "Private_Dirty:")):
                total += int(line.split()[1])
    return total / 1024 / len(pids)


# their own imports


def _imports(folder: Path, *, quick: bool) -> Table:
    """Tell apart what the sandbox takes and what the plugin's own import and constructor take."""
    columns = ("plugin", "in all", "sandbox", "its own import")
    table = Table("Start of one plugin", columns)
    fraction = _MAX_FRACTION
    builtin = {
        "gradclip": ("gradclip", "GradClip", "gradient", {"max_norm": 1.0}),
        "optim: adamw": ("optim", "Optim", "optimizer", {"algorithm": "adamw", "lr": 1e-3}),
        "optim: torch_optimizer.Lamb": (
            "optim",
            "Optim",
            "optimizer",
            {"algorithm": "torch_optimizer.Lamb", "lr": 1e-3},
        ),
    }
    with _quiet_plugins(folder, 1) as (sandbox, quiet):
        specs = {"nothing imported": quiet[0]}
        specs |= {
            name: PluginSpec(
                name=module,
                distribution="ringfence",
                version="0",
                module=f"ringfence.builtin.{module}",
                qualname=qualname,
                role=role,
                options=options,
                memory_fraction=fraction,
            )
            for name, (module, qualname, role, options) in builtin.items()
        }
        for name, spec in specs.items():
            loads: list[float] = []
            with mock.patch.object(WorkerGroup, "_load", _timed(WorkerGroup._load, loads)):
                wholes = [_start_plugins_of(sandbox, spec) for _ in range(2 if quick else 7)]
            rest = [whole - load for whole, load in zip(wholes, loads, strict=True)]
            table.lines.append((name, Figure(tuple(wholes)), Figure(tuple(rest)), Figure(tuple(loads))))
    return table


def _timed(function: Callable[[WorkerGroup], None], seconds: list[float]) -> Callable[[WorkerGroup], None]:
    def timed(crew: WorkerGroup) -> None:
        began = time.perf_counter()
        function(crew)
        seconds.append(time.perf_counter() - began)

    return timed


def _start_plugins_of(sandbox: Sandbox, spec: PluginSpec) -> float:
    began = time.perf_counter()
    plugin = sandbox.start(spec)
    seconds = time.perf_counter() - began
    plugin.close()
    return seconds


# the command


def _commands(folder: Path, *, quick: bool) -> Table:
    lightning = folder / "lightning_script.py"
    lightning.write_text(_LIGHTNING)
    wheel = installed.from_wheel(folder, plugins=_PLUGINS)
    editable = [str(Path(sys.executable).with_name("ringfence"))]
    shown = subprocess.run(
        [*wheel, "plugins", "list", "--json"], check=True, capture_output=True, text=True, timeout=_START_S
    )
    decisions = [plugin["decision"] for plugin in json.loads(shown.stdout)]
    assert decisions == ["accepted"] * _PLUGINS, shown.stdout + shown.stderr
    commands: Mapping[str, Sequence[str]] = {
        "python -c pass": [wheel[0], "-c", "pass"],
        "python -I -c pass": [wheel[0], "-I", "-c", "pass"],
        "ringfence --help": [*wheel, "--help"],
        "ringfence --help, editable install": [*editable, "--help"],
        "ringfence plugins list, 20 plugins": [*wheel, "plugins", "list"],
        "LightningCLI --help": [sys.executable, str(lightning), "--help"],
    }
    rounds = 2 if quick else 5
    computed: dict[str, list[float]] = {name: [] for name in commands}
    sides = {
        name: lambda command=command, computed=computed[name]: _took(command, computed)
        for name, command in commands.items()
    }
    figures = in_turn(sides, rounds)
    table = Table("Until the command has answered and ended", ("command", "time", "processor time"))
    table.lines += [
        (name, figure, Figure(tuple(computed[name][-rounds:]))) for name, figure in figures.items()
    ]
    table.goals += [
        Goal("ringfence --help: at most 150 ms", figures["ringfence --help"].median, _HELP_S, unit="s"),
        Goal(
            f"ringfence plugins list with {_PLUGINS} plugins: at most 300 ms",
            figures["ringfence plugins list, 20 plugins"].median,
            _LIST_S,
            unit="s",
        ),
    ]
    table.notes.append("A wheel, installed into an environment of its own with all that this one has.")
    shutil.rmtree(folder / "environment")
    return table


def _took(command: Sequence[str], computed: list[float]) -> float:
    """Return how long a command took; adds how long it had a processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    # Read to its end: to wait for the process alone is done in looks of up to 50 ms.
    subprocess.run(command, check=True, capture_output=True, timeout=_START_S)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    computed.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return seconds


ROW = Row(6, "Start of plugins and of the command", measure)
