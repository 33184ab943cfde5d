"""The confinement of one worker, as data: files, limits, environment, grants, and what probes aim at."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ...hooks.permissions import GrantedPath, Target


class Confinement(msgspec.Struct, frozen=True):
    """The confinement of one plugin's process.

    Attributes:
        readable: Files and folders that it may read, besides the system's libraries: the interpreter,
            installed packages, the plugin's own code. Missing ones are skipped.
        scratch: The only folder where it may write; also its working and temporary folder.
        data_limit_bytes: Private memory that it may have, pages inherited over fork included.
        scratch_file_bytes: Largest file that it may write.
        max_fds: Open files that it may have.
        keep_fds: Open files that it keeps, besides 0, 1 and 2.
        environment: All of its environment variables.
        parent_pid: The zygote's process id; the process dies with it.
        skip: Layers left out, for tests that show what each one holds; they are reported as disabled.
        max_threads: Threads that it may have, where the kernel can count them by process.
        grants: Files and folders that the job grants it besides.
    """

    readable: tuple[str, ...]
    scratch: str
    data_limit_bytes: int
    scratch_file_bytes: int
    max_fds: int
    keep_fds: tuple[int, ...]
    environment: dict[str, str]
    parent_pid: int
    skip: tuple[str, ...] = ()
    max_threads: int = 64
    grants: tuple[GrantedPath, ...] = ()


class ProbeContext(msgspec.Struct, frozen=True):
    """The targets of probes.

    Attributes:
        host_pid: The trainer, or another process of its user; nothing is done to it that it would notice.
        canary_path: A file of the host's, outside everything readable.
        scratch: The plugin's own folder.
        env_canary: Name of a variable in the host's environment.
        keep_fds: Open files that the plugin is meant to have, besides 0, 1 and 2.
        host_network: Inode of the host's network namespace; 0 if unknown, and then nothing is proved.
    """

    host_pid: int
    canary_path: str
    scratch: str
    env_canary: str
    keep_fds: tuple[int, ...] = ()
    host_network: int = 0

    @property
    def canary(self) -> Path:
        """The canary's path."""
        return Path(self.canary_path)

    def in_scratch(self, name: str) -> Path:
        """Return the path of a file in the scratch folder."""
        return Path(self.scratch) / name


class Network(msgspec.Struct, frozen=True):
    """The network of a worker: what it must know to ask for connections.

    Attributes:
        plugin: Name of the plugin, for messages.
        targets: What the job grants, in the order that requests count in.
    """

    plugin: str
    targets: tuple[Target, ...]


#: A value in the zygote's environment that no worker may see; the self-probe looks for it.
ENV_CANARY = "RINGFENCE_ENV_CANARY"
