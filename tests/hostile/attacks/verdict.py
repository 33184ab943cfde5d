"""Lie about the layers: patch what judges them, or forge what it says."""

import inside
from hostile import Hostile

from ringfence.isolation import kernel, layers, probes, worker
from ringfence.isolation.protocol import Locked, Ready, encoder

_RUN_PROBES, _CONFINE = probes.run_probes, layers.confine


def patch(aim, gradients, step):
    """Have everything say that all is well, and do nothing."""
    probes.PROBES = dict.fromkeys(probes.PROBES, lambda _: True)
    probes.run_probes = worker.run_probes = lambda _: dict.fromkeys(probes.PROBES, True)
    layers.confine = worker.confine = lambda _: []
    kernel.syscall = lambda *_: 0


def look(aim, gradients, step):
    """Tell whether this process was forked with what judges the layers as it was written."""
    step.log("as_written", worker.run_probes is _RUN_PROBES and worker.confine is _CONFINE)
    step.log("tried", sum(map(callable, probes.PROBES.values())))


FORGED = {
    "locked": lambda: Locked([], dict.fromkeys(probes.PROBES, True)),
    "ready": lambda: Ready({"backward": ("gradients", "step")}, keeps_state=False),
}


class Forger(Hostile):
    """Sends a reply of its own while it is started."""

    def __init__(self, attack: str, aim: dict, at: int = 1):
        super().__init__("files:credentials", aim, at)
        inside.worker()._sock.send(encoder.encode(FORGED[attack]()))
