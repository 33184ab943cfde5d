"""System calls that name a process: a plugin may make them of its own only.

A filter that is built once for all plugins cannot know the number of any. What is
here comes before that filter, in each plugin's own: it refuses some calls of other
processes, and leaves everything else to what follows.
"""

from __future__ import annotations

import errno

import seccompy
from seccompy import Action, bpf

from ...policy.syscalls import SIGNALS, number_of

_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ARGUMENT_BYTES = 8
_REFUSED = Action.ERRNO | errno.EPERM
_NO_CLOCK = Action.ERRNO | errno.EINVAL

#: Calls that only ask, and in which argument they name a process; 0 is oneself. Not those
#: whose numbers may also be threads': the C library asks about its own, which have numbers of their own.
_ASKED = {"getpgid": 0, "getsid": 0, "getpriority": 1, "ioprio_get": 1}
#: To change others' limits is told, by a rule that comes later.
_READS_LIMITS = "prlimit64"
_NEW_LIMIT = 2
#: Calls with a clock as their first argument. The number of a process's clock is negative.
_CLOCKS = ("clock_gettime", "clock_getres", "clock_nanosleep", "timer_create")
_NEGATIVE = 0x80000000
#: Of threads the kernel shows only those of the same process.
_OF_A_THREAD = 4
_OWN_CLOCK = ~0 << 3 | 2
_WORD = 0xFFFFFFFF


def program(pid: int, *, told: bool) -> bytes:
    """Return instructions that refuse what names any process but ``pid``.

    abort() and raise() signal the process itself, and must work.

    Args:
        pid: The process that they are for.
        told: Leave signals to others to the listener; without one they get EPERM at once.
    """
    own = (0, pid)
    blocks = {
        "signal": _unless(0, (pid,), Action.USER_NOTIF if told else _REFUSED),
        "first": _unless(0, own, _REFUSED),
        "second": _unless(1, own, _REFUSED),
        "limits": [*_go_on_if_set(_NEW_LIMIT), *_unless(0, own, _REFUSED)],
        "clock": _clock(pid),
    }
    goes_to = dict.fromkeys(SIGNALS, "signal") | {_READS_LIMITS: "limits"} | dict.fromkeys(_CLOCKS, "clock")
    goes_to |= {name: ("first", "second")[index] for name, index in _ASKED.items()}
    instructions: list[bpf.Insn] = [
        bpf.Load(_ARCHITECTURE),
        bpf.Jump(bpf.BPF_JEQ, seccompy.audit_arch(), None, "end"),
        bpf.Load(_NUMBER),
    ]
    for name, block in goes_to.items():
        number = number_of(name)
        if number is not None:
            instructions.append(bpf.Jump(bpf.BPF_JEQ, number, block, None))
    instructions.append(bpf.Ja("end"))
    labels = {}
    for name, block_instructions in blocks.items():
        labels[name] = len(instructions)
        instructions += block_instructions
    return bpf.assemble(instructions, {**labels, "end": len(instructions)})


def _load(index: int, *, high: bool = False) -> bpf.Load:
    """Load half of an argument; the low one is all that the kernel reads of an int."""
    return bpf.Load(_ARGUMENTS + index * _ARGUMENT_BYTES + (_ARGUMENT_BYTES // 2 if high else 0))


def _unless(index: int, allowed: tuple[int, ...], then: int) -> list[bpf.Insn]:
    return [_load(index), *(bpf.Jump(bpf.BPF_JEQ, value, "end", None) for value in allowed), bpf.Ret(then)]


def _go_on_if_set(index: int) -> list[bpf.Insn]:
    """Leave a call to what follows unless the argument, a pointer, is NULL."""
    halves = (_load(index), _load(index, high=True))
    return [each for half in halves for each in (half, bpf.Jump(bpf.BPF_JEQ, 0, None, "end"))]


def _clock(pid: int) -> list[bpf.Insn]:
    own = [number & _WORD for number in (_OWN_CLOCK, ~pid << 3 | 2)]
    return [
        _load(0),
        bpf.Jump(bpf.BPF_JSET, _NEGATIVE, None, "end"),
        bpf.Jump(bpf.BPF_JSET, _OF_A_THREAD, "end", None),
        *(bpf.Jump(bpf.BPF_JEQ, number, "end", None) for number in own),
        bpf.Ret(_NO_CLOCK),
    ]
