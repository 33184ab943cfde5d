"""Where an attack takes place: a sandbox with a sibling plugin, victims, and a run to be spoilt."""

import contextlib
import functools
import json
import os
import select
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from ringfence.builtin.optim import Optim
from ringfence.engine.config import TrainConfig
from ringfence.engine.data import Data, Dataset
from ringfence.engine.train import train
from ringfence.engine.trial import try_together
from ringfence.hooks.errors import PluginError
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.manager import Hooks

from .attacks.hostile import Aim
from .victims import CANARY, ENVIRONMENT, SECRET, Listeners, Victims, furnish, watching_signals

HERE = Path(__file__).parent
ATTACKS = HERE / "attacks"
STEPS = 4
OPEN_FD = 211
CONTROL_S = 40.0
ANSWER_S = 60.0


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        weights: Digest of the final weights.
        codes: Attempt to what came of it, as the attacker logged.
        events: What the user was told.
        error: The attacker's fault, None if it had none.
        plugin: The attacker.
        fault_s: The call that failed took.
    """

    weights: str
    codes: Mapping[str, int]
    events: list[str]
    error: PluginError | None
    plugin: object
    fault_s: float = 0.0


@dataclass
class Control:
    """What came of an attack without a sandbox.

    Attributes:
        codes: Attempt to what came of it.
        trainer: ``""`` if it came through, ``"stopped"``, or ``"ended"``.
    """

    codes: Mapping[str, int]
    trainer: str


@dataclass
class Listener:
    """Keeps what plugins log and what is said of them."""

    codes: dict = field(default_factory=dict)
    events: list = field(default_factory=list)

    def reported(self, plugin, step, scalars, report):
        if plugin == "hostile":
            self.codes.update({name: int(value) for name, value in scalars.items()})

    def event(self, message):
        self.events.append(message)


class Stage:
    """Set up once; ``run`` makes one run with or without an attacker, ``control`` one without a sandbox."""

    def __init__(self, folder):
        self._stack = ExitStack()
        self.folder = folder
        self.signals = []
        self._trainers = {}
        self.canary = "".join(CANARY)

    def __enter__(self):
        with ExitStack() as stack:
            self._set_up(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _set_up(self, stack):
        before = dict(os.environ)
        stack.callback(lambda: (os.environ.clear(), os.environ.update(before)))
        os.environ.update(ENVIRONMENT)
        stack.enter_context(watching_signals(self.signals))
        home, project = furnish(self.folder)
        listeners = Listeners(self.folder)
        stack.callback(listeners.close)
        secret = os.open(home / ".ssh/id_ed25519", os.O_RDONLY)
        os.dup2(secret, OPEN_FD, inheritable=True)
        stack.callback(os.close, OPEN_FD)
        os.close(secret)
        self.sandbox = stack.enter_context(Sandbox())
        self.victims = Victims(
            self.folder, home, project, listeners, ATTACKS, self.sandbox.folder, self.signals
        )
        self.sibling = self.sandbox.start(self.spec("Bystander", "sibling", module="bystander"))
        self.reference = self.run().weights

    def spec(self, qualname, name="hostile", *, module="hostile", role="gradient", options=None, **settings):
        """Describe a plugin of the folder ``attacks``."""
        return PluginSpec(
            name,
            "tests",
            "1.0",
            module,
            qualname,
            role,
            options=options or {},
            search_path=(str(ATTACKS),),
            readable=(str(ATTACKS),),
            **{"on_failure": "disable", "deadline_s": 20.0, **settings},
        )

    def aim(self):
        """Return what there is to aim at now."""
        sibling = self.sibling._workers[0].channel.process
        listeners = self.victims.listeners
        return Aim(
            host_pid=os.getpid(),
            zygote_pid=self.sandbox._zygote.pid,
            sibling_pid=sibling.pid,
            sibling_scratch=sibling.scratch,
            home=str(self.victims.home),
            secret=SECRET,
            canary=CANARY,
            project=str(self.victims.project),
            open_fd=OPEN_FD,
            packages=sysconfig.get_path("purelib"),
            code=str(ATTACKS),
            tcp_port=listeners.port("tcp"),
            tcp6_port=listeners.port("tcp6"),
            udp_port=listeners.port("udp"),
            unix_path=listeners.unix_path,
            abstract=listeners.abstract,
        )

    def attacker(self, attack, plugin="Hostile", at=1, **settings):
        """Describe a plugin that makes one attack, at step ``at``."""
        aim = json.loads(json.dumps(asdict(self.aim())))
        return self.spec(plugin, options={"attack": attack, "aim": aim, "at": at}, **settings)

    def run(self, spec=None, sandbox=None, watch=contextlib.nullcontext):
        """Train a small model for a few steps, with an attacker if ``spec`` describes one.

        Args:
            watch: Makes a context of the attacker's process id, open until it has ended.
        """
        sandbox = sandbox or self.sandbox
        listener = Listener()
        hooks = Hooks(7, listener)
        failed = []
        try:
            plugin, pid = None, os.getpid()
            if spec is not None:
                plugin = sandbox.start(spec)
                hooks.register(Noting(plugin, failed))
                pid = plugin._workers[0].channel.process.pid
            hooks.register(LocalPlugin(optimizer()))
            config = TrainConfig(batch_size=8, steps=STEPS, seed=7, device="cpu")
            with watch(pid), Borrowed(sandbox) as allocate:
                result = train(try_together(model(), data(), config), hooks, allocate=allocate)
                hooks.close()
        finally:
            hooks.close()
        error, fault_s = failed[0] if failed else (None, 0.0)
        if error is not None:
            # The frames that it went through hold the memory of the call.
            error.__traceback__ = error.__cause__ = error.__context__ = None
        return Outcome(result.weights_sha256, listener.codes, listener.events, error, plugin, fault_s)

    def control(self, attack, prefix=()):
        """Make an attack where no sandbox is, on processes that are there to be harmed."""
        out = self.folder / f"control-{attack.replace(':', '-')}.json"
        scratch = self.folder / "control-scratch"
        scratch.mkdir(exist_ok=True)
        (scratch / "note.txt").write_text("a note of the sibling's own")
        aim = asdict(self.aim()) | {"sibling_scratch": str(scratch)}
        if prefix not in self._trainers:
            self._trainers[prefix] = self._stack.enter_context(Trainers(prefix))
        trainer = self._trainers[prefix].attacked(
            {"attack": attack, "aim": aim, "out": str(out), "limit_s": CONTROL_S}
        )
        codes = json.loads(out.read_text()) if out.exists() else {}
        return Control(codes, trainer)


class Trainers:
    """Trainers without a sandbox, forked from one process that has torch imported; see ``control.py``."""

    def __init__(self, prefix):
        self._process = subprocess.Popen(
            [*prefix, sys.executable, str(HERE / "control.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)

    def attacked(self, task):
        """Return what became of a trainer: ``""`` if it came through, ``"stopped"``, or ``"ended"``."""
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_S)
        assert ready, f"no answer for {task['attack']}"
        return json.loads(self._process.stdout.readline())


class Borrowed:
    """Shared memory of a sandbox that goes on after the run, given back at its end."""

    def __init__(self, sandbox):
        self._sandbox = sandbox
        self._tensors = []

    def __enter__(self):
        return self._allocate

    def __exit__(self, *_):
        for tensor in self._tensors:
            self._sandbox.arena.release(tensor)

    def _allocate(self, shape, dtype):
        self._tensors.append(self._sandbox.allocate(shape, dtype))
        return self._tensors[-1]


class Noting:
    """A started plugin whose faults are noted on their way, with the time that each call took."""

    _CALLS = ("call", "post", "poll", "drain", "state_dict")

    def __init__(self, plugin, failed):
        self._plugin = plugin
        self._failed = failed

    def __getattr__(self, name):
        found = getattr(self._plugin, name)
        return functools.partial(self._note, found) if name in self._CALLS else found

    def _note(self, call, *arguments):
        started = time.monotonic()
        try:
            return call(*arguments)
        except PluginError as error:
            self._failed.append((error, time.monotonic() - started))
            raise


def optimizer():
    name = f"{Optim.__module__}:{Optim.__qualname__}"
    module, _, qualname = name.partition(":")
    options = {"algorithm": "sgd", "lr": 0.1}
    return PluginSpec(
        "optim", "ringfence", "1.0", module, qualname, "optimizer", options=options, isolation="trusted"
    )


def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def data():
    generator = torch.Generator().manual_seed(5)

    def make(count):
        inputs = torch.rand(count, 1, 4, 4, generator=generator)
        return Dataset(inputs, torch.randint(0, 3, (count,), generator=generator), 3)

    return Data(make(32), make(8))
