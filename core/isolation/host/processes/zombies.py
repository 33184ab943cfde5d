"""Zombies: workers that were killed and have not ended, as the kernel holds them, mostly for a slow disk.

Nobody can end them any sooner, and nobody waits for them: they are collected when they
have ended. Until then their files are left alone, as who removes one would
be held as well.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ..limits.scratch_folder import remove_tree
from ..limits.worker_process import Process, ends_within
from .zygote_client import NotEndedError, Zygote


class _Held(NamedTuple):
    pid: int
    pidfd: int
    generation: int
    scratch: str | None


class Zombies:
    """The zombies of one sandbox."""

    def __init__(self) -> None:
        self._held: list[_Held] = []

    def add(self, process: Process) -> None:
        """Keep one for later; its stand-in may close its descriptors."""
        process.hangs = True
        self._held.append(_Held(process.pid, os.dup(process.pidfd), process.generation, process.scratch))

    def holds(self, scratch: str) -> bool:
        """Tell whether one of them has this scratch folder."""
        return any(each.scratch == scratch for each in self._held)

    def collect(self, zygote: Zygote) -> None:
        """Collect those that have ended, and remove their files; waits for nothing else."""
        self._held = [each for each in self._held if not _collect(each, zygote)]

    def close(self) -> bool:
        """Let go of all, as their zygote is gone; tell whether all have ended."""
        ended = [ends_within(each.pidfd, 0.0) for each in self._held]
        for each in self._held:
            os.close(each.pidfd)
        self._held.clear()
        return all(ended)


def _collect(held: _Held, zygote: Zygote) -> bool:
    if not ends_within(held.pidfd, 0.0):
        return False
    if held.generation == zygote.generation and not zygote.has_ended():
        try:
            zygote.reap(held.pid)
        except NotEndedError:
            return False
    os.close(held.pidfd)
    if held.scratch is not None:
        remove_tree(Path(held.scratch))
    return True
