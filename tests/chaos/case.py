"""One run under faults: the command is started, harmed, and resumed until it has come to its end."""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

from . import job, processes, sockets, trainer
from .disk import Disk
from .progress import Progress, lines_of, steps_lost
from .schedule import MESSAGES, Schedule

#: A run that needs more than this never ends.
MAX_ATTEMPTS = 12
ATTEMPT_S = 75.0
#: No process may be left this long after a trainer, on however busy a machine.
ORPHAN_S = 30.0
_LOOK_S = 0.002
_SIGNALS = {
    "kill": signal.SIGKILL,
    "segfault": signal.SIGSEGV,
    "abort": signal.SIGABRT,
    "term": signal.SIGTERM,
    "interrupt": signal.SIGINT,
    "stop": signal.SIGSTOP,
    "pause": signal.SIGSTOP,
    "interrupt_twice": signal.SIGINT,
}
_TWICE_AFTER_S = 0.03
_NEARLY = 64 * 1024


class Case:
    """One run.

    Args:
        schedule: What happens to it.
        folder: Where all of it lies; exists and is empty.
        sabotage: ``"robbed"`` for a run that the harness itself spoils, to show that it tells; or ``""``.
    """

    def __init__(self, schedule, folder, sabotage=""):
        self.schedule = schedule
        self.folder = folder
        self.sabotage = sabotage
        self.marks = folder / "marks"
        self.marks.mkdir()
        (folder / "disk").mkdir()
        self.disk = Disk(folder / "disk", small=any(f.victim == "disk" for f in schedule.outside))
        self.job = folder / "job.yaml"
        job.write_job(self.job, schedule.mix, schedule.plans(), self.marks, schedule.policies)
        self._chance = random.Random(schedule.seed)  # noqa: S311 - for what a message is made of
        self._pending = list(schedule.outside)
        self._timers = []
        self.injected = []
        self.attempts = []
        self.anew = 0
        self.hosts = []

    def run(self):
        """Return what became of it, as plain data."""
        while len(self.attempts) < MAX_ATTEMPTS and not self._done:
            self._attempt()
        return self._outcome()

    @property
    def _done(self):
        return bool(self.attempts) and (self.attempts[-1]["status"] == 0 or not self.attempts[-1]["goes_on"])

    @property
    def run_folder(self):
        """Folder of the run; another one after each start that came to no checkpoint."""
        return self.disk.folder / f"run-{self.anew}"

    def _attempt(self):
        number, folder = len(self.attempts), self.run_folder
        (self.marks / "attempt").write_text(str(number))
        resumed = bool(_checkpoints(folder))
        arguments = (
            ["train", "--resume", str(folder)] if resumed else ["train", str(self.job), "--out", str(folder)]
        )
        told_before = len(lines_of(folder / "events.jsonl"))
        progress = Progress(folder)
        began = time.time()
        host = trainer.start([*arguments, "--quiet"], self.folder, self.folder / f"log-{number}")
        self.hosts.append(host)
        status, hung = self._watch(host, progress)
        self._timers.clear()
        left = processes.left_after(ORPHAN_S)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.disk.relieve()
        self._spoil(number)
        kept = bool(_checkpoints(folder))
        # Ended before there was anything to keep, a run is begun anew.
        goes_on = kept or progress.step < 0
        self.anew += not kept and goes_on and status != 0
        self.attempts.append({
            "status": status,
            "resumed": resumed,
            "hung": hung,
            "left": left,
            "goes_on": goes_on,
            "began": began,
            "seconds": round(time.time() - began, 3),
            "steps": progress.step,
            "events": lines_of(folder / "events.jsonl")[told_before:],
            "says": (self.folder / f"log-{number}").read_text(errors="replace")[-6000:],
        })  # fmt: skip

    def _watch(self, host, progress):
        """Watch a trainer to its end, and do to it what is due; returns its status, and whether it hung."""
        began, hung = time.monotonic(), False
        due = {}
        while True:
            ended = processes.collect()
            if host in ended:
                return ended[host], hung
            now, step = time.monotonic(), progress.look()
            for fault in self._pending:
                if fault.id not in due and (fault.step <= step or fault.step < 0):
                    due[fault.id] = (began if fault.step < 0 else now) + fault.delay_ms / 1000
            for fault in [each for each in self._pending if due.get(each.id, now + 1) <= now]:
                self._inject(fault, host, step)
            for timer in [each for each in self._timers if each[0] <= now]:
                self._timers.remove(timer)
                _signal(*timer[1:])
            if now > began + ATTEMPT_S and not hung:
                hung = True
                _signal(host, signal.SIGCONT)
                _signal(host, trainer.TELL)
                self._timers.append((now + 0.5, host, signal.SIGKILL))
            time.sleep(_LOOK_S)

    def _inject(self, fault, host, step):
        """Do to the run what is due, if what it is to be done to is there."""
        with contextlib.suppress(sockets.CannotTamperError):
            if self._do(fault, host):
                self._pending.remove(fault)
                attempt = len(self.attempts)
                self.injected.append({"id": fault.id, "attempt": attempt, "step": step, "time": time.time()})

    def _do(self, fault, host):
        if fault.victim == "disk":
            return self.disk.fill(0 if fault.kind == "full" else int(fault.pick * _NEARLY))
        pid = self._victim(fault, host)
        if pid is None:
            return False
        if fault.kind in MESSAGES:
            sockets.tamper(fault.kind, host, pid, self._chance, to_host=fault.to_host)
            return True
        now = time.monotonic()
        if fault.kind == "pause":
            self._timers.append((now + fault.lasts_ms / 1000, pid, signal.SIGCONT))
        if fault.kind == "interrupt_twice":
            self._timers.append((now + _TWICE_AFTER_S, pid, signal.SIGINT))
        return _signal(pid, _SIGNALS[fault.kind])

    def _victim(self, fault, host):
        if fault.victim == "host":
            return host
        if fault.victim == "zygote":
            return processes.zygote_of(host)
        workers = processes.workers_of(host)
        return workers[int(fault.pick * len(workers))] if workers else None

    def _spoil(self, number):
        """Take away what was kept, and leave a process behind, as a control asks for."""
        if self.sabotage == "robbed" and number == 0:
            for path in _checkpoints(self.run_folder):
                path.rename(self.folder / path.name)
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)

    def _outcome(self):
        folder = self.run_folder
        metrics = lines_of(folder / "metrics.jsonl")
        record = {}
        with contextlib.suppress(OSError, ValueError):
            record = json.loads((folder / "run.json").read_text())
        path = self.marks / f"steps-{job.NOTING[self.schedule.mix]}"
        return {
            "schedule": self.schedule.to_dict(),
            "attempts": self.attempts,
            "anew": self.anew,
            "injected": sorted(self.injected + self._made(), key=lambda each: each["time"]),
            "record": record,
            "train": [each for each in metrics if each["kind"] == "train"],
            "evaluated": [
                {k: v for k, v in each.items() if k != "time"}
                for each in metrics
                if each["kind"] in {"validation", "test"}
            ],
            "lost": steps_lost(path.read_bytes()) if path.exists() else [],
            "left": processes.left_after(ORPHAN_S),
            "remains": _remains(self.hosts),
        }

    def _made(self):
        """Return the faults that plugins made of themselves."""
        made = [json.loads(path.read_text() or "{}") for path in self.marks.glob("made-*")]
        begins = [attempt["began"] for attempt in self.attempts]
        return [
            {
                "id": each["id"],
                "attempt": sum(begin <= each["time"] for begin in begins) - 1,
                "step": each["step"],
                "time": each["time"],
            }
            for each in made
            if each
        ]


def _checkpoints(folder):
    return sorted(folder.glob("checkpoints/step-*"))


def _signal(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _remains(hosts):
    """Return folders and control groups of trainers that were started here."""
    from ringfence.isolation.host.limits.cgroup import own_groups
    from ringfence.isolation.host.limits.scratch_place import scratch_parents

    prefixes = tuple(f"ringfence-{host}-" for host in hosts)
    places = {*scratch_parents(), *own_groups().values()}
    return sorted(
        str(path)
        for place in places
        if place.is_dir()
        for path in place.iterdir()
        if path.name.startswith(prefixes)
    )


def main(task):
    """Run a case in this process, and leave ``outcome.json``."""
    processes.adopt_orphans()
    folder = Path(task["folder"])
    case = Case(Schedule.of(task["schedule"]), folder, task.get("sabotage", ""))
    outcome = case.run()
    for pid in outcome["left"]:
        os.kill(pid, signal.SIGKILL)
    if case.disk.is_small:
        # It goes with this process.
        shutil.copytree(case.run_folder, folder / "kept", dirs_exist_ok=True)
    (folder / "outcome.json").write_text(json.dumps(outcome))
