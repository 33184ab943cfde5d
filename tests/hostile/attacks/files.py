"""Files: read what is secret, change what others run, and leave traps."""

import os
from pathlib import Path


def read(path, size=64):
    """Return what a file begins with; True if it is readable and empty."""
    with open(path, "rb") as file:
        return file.read(size) or True


CREDENTIALS = (
    ".ssh/id_ed25519",
    ".netrc",
    ".aws/credentials",
    ".cache/huggingface/token",
    ".config/tokens.json",
    ".git-credentials",
    ".docker/config.json",
    ".kube/config",
    ".pypirc",
    ".bash_history",
)
#: Files of the machine: accounts, keys, addresses, memory, what its processes are.
OF_THE_MACHINE = (
    *("/etc/shadow", "/etc/passwd", "/etc/group", "/etc/hosts", "/etc/resolv.conf", "/etc/machine-id"),
    *("/etc/environment", "/proc/1/environ", "/proc/1/cmdline", "/proc/cmdline", "/proc/mounts"),
    *("/proc/self/mounts", "/proc/self/environ", "/proc/self/cgroup", "/proc/net/tcp", "/proc/net/unix"),
    *("/proc/kallsyms", "/proc/modules", "/proc/version", "/proc/sys/kernel/random/boot_id"),
    *("/dev/mem", "/dev/zero", "/dev/full"),
)
PLACES = (
    *("/", "/home", "/root", "/etc", "/etc/ssh", "/var", "/var/log", "/var/lib", "/tmp", "/run", "/srv"),
    *("/proc", "/proc/self", "/proc/self/fd", "/proc/1", "/sys", "/sys/class/net", "/sys/fs/cgroup"),
    *("/dev", "/dev/shm", "/usr", "/usr/bin", "/opt", "/mnt"),
)


def credentials(aim):
    found = {name.replace("/", "_"): Path(aim.home, name) for name in CREDENTIALS}
    found |= {
        "job": Path(aim.project, "job.yaml"),
        "dataset": Path(aim.project, "data.bin"),
        "checkpoint": Path(aim.project, "checkpoint.safetensors"),
    }
    return {name: lambda path=path: read(path) for name, path in found.items()}


def folders(aim):
    places = {
        "home": aim.home,
        "ssh": f"{aim.home}/.ssh",
        "project": aim.project,
        "project_above": os.path.dirname(aim.project),
        **there_are(PLACES),
    }
    return {name: lambda place=place: os.listdir(place) or True for name, place in places.items()}


def of_the_machine(aim):
    return {name: lambda path=path: read(path) for name, path in there_are(OF_THE_MACHINE).items()}


def there_are(paths):
    """Return the paths that there are, by what an attempt on them is called."""
    return {path.strip("/").replace("/", "_") or "top": path for path in paths if os.path.exists(path)}
