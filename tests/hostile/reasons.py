"""Why an attack cannot be shown to succeed where no sandbox is: found out by looking, here, as this user."""

import errno
import functools
import os
import resource
import subprocess
from pathlib import Path

from ringfence.isolation.policy import kernel

_CAPABILITIES = {
    name: number
    for number, name in enumerate(
        (
            *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
            *("SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"),
            *("IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT"),
            *("SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD"),
            *("LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG"),
            *("WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
        )
    )
}
_REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)


def because(reasons):
    """Return the attempts that have a reason, of a mapping of attempt to reason or ``""``."""
    return {attempt: reason for attempt, reason in reasons.items() if reason}


def each(attempts, reason):
    """Return one reason, if it is any, for many attempts."""
    return because(dict.fromkeys(attempts, reason))


@functools.cache
def _effective():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["CapEff"], 16)


@functools.cache
def _rules_the_machine():
    """Tell whether rights count outside of a user namespace too."""
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def lacks(capability, *, anywhere=False):
    """Return why this user may not do what takes a capability, or ``""``.

    Args:
        capability: Its name, without CAP.
        anywhere: It counts inside a user namespace as well.
    """
    if _effective() >> _CAPABILITIES[capability] & 1 and (anywhere or _rules_the_machine()):
        return ""
    return f"user {os.geteuid()} has no CAP_{capability} here"


def refused(name, *args):
    """Return what the kernel says when this user makes a call with arguments that do nothing, or ``""``.

    Args:
        name: Or number.
        args: Of the call.
    """
    try:
        if isinstance(name, int):
            kernel.syscall_number(name, *args)
        else:
            kernel.syscall(name, *args)
    except OSError as error:
        if error.errno in _REFUSED:
            return f"user {os.geteuid()} cannot make call {name} here: {error.strerror}"
    return ""


def fails(attempt):
    """Return what the kernel says to ``attempt``, or ``""`` if it works; what it returns is thrown away."""
    try:
        attempt()
    except OSError as error:
        return f"not for user {os.geteuid()} on this machine: {error.strerror}"
    return ""


def unlimited(kind):
    """Return why this user cannot lift a limit of this kind, or ``""``."""
    _, most = resource.getrlimit(kind)
    if most == resource.RLIM_INFINITY:
        return ""
    reason = lacks("SYS_RESOURCE")
    return f"{reason}, and the limit is {most}" if reason else ""


def closed(path, way=os.R_OK):
    """Return why this user cannot open a file, or ``""``; what is not there is not attacked either."""
    if not os.path.exists(path):
        return ""
    if os.access(path, way):
        return ""
    return f"user {os.geteuid()} may not {'read' if way == os.R_OK else 'write'} {path}"


def unreadable(path):
    """Return what the kernel says when this user reads a file or a folder, or ``""``."""

    def reads():
        if os.path.isdir(path):
            os.listdir(path)
            return
        with open(path, "rb") as file:
            file.read(1)

    return fails(reads)


def setting(path, *fitting):
    """Return the kernel's setting as a reason unless it is one of these; one that is not there fits."""
    try:
        value = Path(path).read_text().strip()
    except OSError:
        return ""
    return "" if value in fitting else f"{path} is {value}"


@functools.cache
def alone(*kinds):
    """Return the command by which a control gets namespaces of its own, or None where there are none.

    Args:
        kinds: Options of unshare(1).
    """
    more = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    command = ("unshare", *more, *kinds)
    try:
        done = subprocess.run([*command, "true"], capture_output=True, timeout=20, check=False)
    except FileNotFoundError:
        return None
    return command if done.returncode == 0 else None


def not_alone(command):
    """Return the reason for every attempt where ``alone`` gave no command."""
    return {} if command else {"*": f"user {os.geteuid()} cannot have namespaces of its own to try this in"}
