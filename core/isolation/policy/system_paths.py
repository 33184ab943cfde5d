"""System files that every plugin may read."""

from __future__ import annotations

#: What libraries read of the system. Of ``/proc`` only these: the rest tells about other
#: processes and the network. Not ``/dev/zero``: mapping it makes shared memory that no limit counts.
SYSTEM = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo"),
    *("/etc/ld.so.cache", "/etc/localtime", "/dev/urandom"),
    *("/sys/devices/system/cpu", "/sys/devices/system/node"),
)
#: These are held open, as names only: the kernel makes a new file of each once it has run short of
#: memory and forgotten the old one, and a rule knows the old one.
PINNED = (
    *("/proc/cpuinfo", "/proc/meminfo"),
    *(f"/proc/self/{name}" for name in ("maps", "stat", "statm", "status")),
)
