"""What happens to one run, and when: all of it drawn from one seed."""

import random
from dataclasses import asdict, dataclass, field

from .job import FAULTY, STEPS

#: Of each seed: this many faults at least, and at most.
_FEWEST, _MOST = 2, 5
#: Kinds of fault that the plugin itself makes, by the method in which it makes them.
_ANYWHERE = (
    *("raise", "exit", "leave", "segfault", "abort", "loop", "sleep", "leak", "fill_scratch", "print_much"),
    *("garbage", "oversized", "truncated", "empty", "wrong_number", "late_number", "surplus", "hang_up"),
)
IN_A_CALL = (*_ANYWHERE, "no_result", "duplicate")
IN_A_RESULT = ("shape", "not_finite")
IN_STATE = (*_ANYWHERE, "large_state", "nested_state", "odd_state", "duplicate")
_AT_START = ("raise", "exit", "segfault", "sleep", "leak")
#: What is done to processes, by victim. ``kill`` to ``abort`` end one, ``stop`` makes it hang for good,
#: ``pause`` for a moment; the others are done to what it sends or is sent.
_SIGNALS = ("kill", "segfault", "abort")
MESSAGES = ("garbage", "truncate", "drop", "double", "oversized")
OUTSIDE = {
    "worker": (*_SIGNALS, "stop", "pause", *MESSAGES),
    "zygote": (*_SIGNALS, "pause", *MESSAGES),
    "host": ("kill", "term", "interrupt", "interrupt_twice", "pause", "abort"),
    "disk": ("full", "nearly_full"),
}
_VICTIMS = {"plugin": 58, "worker": 31, "zygote": 4, "host": 4, "disk": 3}
#: Of these a run has no more than one: each costs a second process of its own.
#: How many of the faults of each come while processes start: most of those cost a start of the trainer.
_AT_STARTS = {"host": 0.15, "zygote": 0.1, "worker": 0.02}
_ONCE = ("zygote", "host", "disk")
#: By the seed: what all is done to, plugins of the harness's own more often.
_MIXES = (0, 1, 0, 1, 2)
_OF_MONITORS = (*["disable"] * 5, *["restart"] * 5, "abort")
_LONGEST_DELAY_MS = 25
_LONGEST_PAUSE_MS = 600
_START_MS = 2500


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        id: Its number in the schedule.
        victim: ``plugin``, ``worker``, ``zygote``, ``host`` or ``disk``.
        kind: What is done.
        step: Not before this many steps; -1 as the processes start.
        plugin: Which plugin makes it, if a plugin does.
        method: Where the plugin makes it.
        delay_ms: After the step.
        lasts_ms: Of a pause.
        pick: Which of several processes, from 0 to 1.
        to_host: Of a message that is tampered with: whether the trainer gets it, or has sent it.
    """

    id: int
    victim: str
    kind: str
    step: int
    plugin: str = ""
    method: str = ""
    delay_ms: float = 0.0
    lasts_ms: float = 0.0
    pick: float = 0.0
    to_host: bool = True

    @property
    def name(self):
        """What is done to whom."""
        if self.victim == "plugin":
            return f"{self.kind} in {self.plugin}.{self.method}"
        if self.kind in MESSAGES:
            return (
                f"{self.kind} {self.victim} to host" if self.to_host else f"{self.kind} host to {self.victim}"
            )
        return f"{self.kind} {self.victim}"


@dataclass(frozen=True)
class Schedule:
    """What happens to one run.

    Attributes:
        seed: What all was drawn from; -1 for a run to which nothing happens.
        mix: Of plugins, the place in ``job.FAULTY``.
        faults: In no order.
        policies: Plugin to ``on_failure``, where that is not what it is by default.
    """

    seed: int
    mix: int
    faults: tuple[Fault, ...] = ()
    policies: dict = field(default_factory=dict)

    def plans(self):
        """Return plugin to the faults that it makes of itself."""
        plans = {}
        for fault in self.faults:
            if fault.victim == "plugin":
                entry = {"id": fault.id, "kind": fault.kind, "method": fault.method, "step": fault.step}
                plans.setdefault(fault.plugin, []).append(entry)
        return plans

    @property
    def outside(self):
        """The faults that others make."""
        return [fault for fault in self.faults if fault.victim != "plugin"]

    def to_dict(self):
        return asdict(self)

    @classmethod
    def of(cls, given):
        """Return the schedule that ``to_dict`` was made of."""
        return cls(**{**given, "faults": tuple(Fault(**fault) for fault in given["faults"])})


def quiet(mix):
    """Return the schedule of a run to which nothing happens."""
    return Schedule(-1, mix)


def forgetful():
    """Return the schedule of a run in which a plugin comes back without its state, and says nothing."""
    end = Fault(0, "plugin", "exit", 17, "sway", "forward")
    return Schedule(-2, 0, (end, Fault(1, "plugin", "forget", 0, "sway", "load_state_dict")))


def killed():
    """Return the schedule of a run whose trainer is killed."""
    return Schedule(-3, 0, (Fault(0, "host", "kill", 15),))


def draw(seed):
    """Draw a schedule."""
    chance = random.Random(seed)  # noqa: S311 - a seed is the point
    mix = _MIXES[seed % len(_MIXES)]
    faults = []
    had = set()
    for _ in range(chance.randint(_FEWEST, _MOST)):
        victims = [each for each in _VICTIMS if each not in had and (each != "plugin" or FAULTY[mix])]
        (victim,) = chance.choices(victims, [_VICTIMS[each] for each in victims])
        if victim in _ONCE:
            had.add(victim)
        if victim == "plugin":
            faults += _of_plugin(chance, mix, len(faults))
        else:
            faults.append(_of_other(chance, victim, len(faults)))
    return Schedule(seed, mix, tuple(faults), _policies(chance, mix))


def _of_plugin(chance, mix, number):
    plugin = chance.choice(sorted(FAULTY[mix]))
    step = chance.randrange(1, STEPS)
    method = chance.choice([*FAULTY[mix][plugin] * 3, "state_dict", "state_dict", "load_state_dict", "start"])
    if method in ("load_state_dict", "start"):
        # These come when the plugin is started anew, for which something else must have happened.
        first = Fault(number, "plugin", chance.choice(_ANYWHERE), step, plugin, FAULTY[mix][plugin][0])
        kinds = _AT_START if method == "start" else _ANYWHERE
        return [first, Fault(number + 1, "plugin", chance.choice(kinds), 0, plugin, method)]
    if method == "state_dict":
        return [Fault(number, "plugin", chance.choice(IN_STATE), step, plugin, method)]
    kinds = IN_A_CALL + (IN_A_RESULT if _changes(plugin, method) else ())
    return [Fault(number, "plugin", chance.choice(kinds), step, plugin, method)]


def _changes(plugin, method):
    return plugin in ("sway", "roll") or (plugin, method) == ("blur", "forward")


def _of_other(chance, victim, number):
    kind = chance.choice(OUTSIDE[victim])
    at_start = victim != "disk" and kind not in MESSAGES and chance.random() < _AT_STARTS[victim]
    return Fault(
        number,
        victim,
        kind,
        step=-1 if at_start else chance.randrange(1, STEPS + 1),
        delay_ms=chance.uniform(0, _START_MS if at_start else _LONGEST_DELAY_MS),
        lasts_ms=chance.uniform(20, _LONGEST_PAUSE_MS),
        pick=chance.random(),
        to_host=chance.random() < 0.5,
    )


def _policies(chance, mix):
    """Draw what is done after a fault of the plugins for which that is not always the same."""
    policies = {"monitor" if mix == 2 else "gauge": chance.choice(_OF_MONITORS)}
    for plugin in sorted({*FAULTY[mix]} - {"gauge"}):
        if chance.random() < 0.05:
            policies[plugin] = "abort"
    return policies
