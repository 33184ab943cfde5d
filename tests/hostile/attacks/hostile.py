"""The plugin that attacks: one class, told by its options which attack to run and at what to aim.

An attack is a function of an ``Aim``. Most return *attempts*: name to a function that
raises ``OSError`` when it was refused, returns False when it found nothing, and anything
else when it got what it wanted. The same functions run in the control, where no
sandbox is, and there they have to succeed.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ringfence import passthrough

#: What an attempt came to, besides a positive errno.
SUCCEEDED, NOTHING = 0, -1

Attempts = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Aim:
    """What there is to steal, to harm and to reach; plain data.

    Attributes:
        host_pid: The trainer.
        zygote_pid: The process that plugins are forked from.
        sibling_pid: Another plugin's worker.
        sibling_scratch: Its scratch folder.
        home: A user's home folder with keys and tokens in the usual places.
        secret: What every one of those files holds.
        canary: Text that only the trainer has in its memory, in two halves that are joined nowhere.
        project: A folder with the trainer's job, data and checkpoint.
        open_fd: A descriptor that the trainer has open on a secret file, inheritable.
        packages: Where installed packages lie.
        code: The folder of the attacker's own code.
        tcp_port: A listener on 127.0.0.1.
        tcp6_port: A listener on ::1, or 0 where there is no IPv6.
        udp_port: A socket on 127.0.0.1.
        unix_path: A listener with a path, as an ssh agent or a container engine has.
        abstract: Name of a listener without one.
    """

    host_pid: int
    zygote_pid: int
    sibling_pid: int
    sibling_scratch: str
    home: str
    secret: str
    canary: tuple[str, str]
    project: str
    open_fd: int
    packages: str
    code: str
    tcp_port: int
    tcp6_port: int
    udp_port: int
    unix_path: str
    abstract: str


def find(attack: str) -> Callable[..., Any]:
    """Return the attack ``"module:function"``."""
    module, _, name = attack.partition(":")
    return getattr(importlib.import_module(module), name)


def outcome(attempt: Callable[[], object]) -> int:
    """Make one attempt; returns 0 when it succeeded, else why not."""
    try:
        got = attempt()
    except OSError as error:
        return error.errno or NOTHING
    return NOTHING if got is False else SUCCEEDED


def attempt_all(attack: str, aim: Aim) -> dict[str, int]:
    """Make all attempts of an attack, in order."""
    return {name: outcome(attempt) for name, attempt in find(attack)(aim).items()}


class Hostile:
    """Attack at step ``at``; changes nothing otherwise, so that the weights stay what they were."""

    role = "gradient"
    forward = passthrough

    def __init__(self, attack: str, aim: dict, at: int = 1):
        self.attack = attack
        self.aim = Aim(**{**aim, "canary": tuple(aim["canary"])})
        self.at = at

    def backward(self, gradients, step):
        if step.global_step == self.at:
            for name, code in attempt_all(self.attack, self.aim).items():
                step.log(name, code)


class Saboteur(Hostile):
    """Attack by what ``backward`` does or returns: the function gets the gradients and the step as well."""

    def backward(self, gradients, step):
        if step.global_step == self.at:
            return find(self.attack)(self.aim, gradients, step)
        return None


class AtImport(Hostile):
    """Attack in the constructor, before the first step; what came of it is told later."""

    def __init__(self, attack: str, aim: dict, at: int = 1):
        super().__init__(attack, aim, at)
        self.codes = attempt_all(attack, self.aim)

    def backward(self, gradients, step):
        if step.global_step == self.at:
            for name, code in self.codes.items():
                step.log(name, code)
