"""Lie about the layers: patch what judges them, or forge what it says."""

import inside
from hostile import Hostile

from ringfence.isolation.policy import kernel
from ringfence.isolation.transport.messages import Locked, Ready, encoder
from ringfence.isolation.worker import serve
from ringfence.isolation.worker.layers import confine
from ringfence.isolation.worker.probes import run_probes

_RUN_PROBES, _CONFINE = run_probes.run_probes, confine.confine


def patch(aim, gradients, step):
    """Have everything say that all is well, and do nothing."""
    run_probes.PROBES = dict.fromkeys(run_probes.PROBES, lambda _: True)
    run_probes.run_probes = serve.run_probes = lambda _: dict.fromkeys(run_probes.PROBES, True)
    confine.confine = serve.confine = lambda _: []
    kernel.syscall = lambda *_: 0


def look(aim, gradients, step):
    """Tell whether this process was forked with what judges the layers as it was written."""
    step.log("as_written", serve.run_probes is _RUN_PROBES and serve.confine is _CONFINE)
    step.log("tried", sum(map(callable, run_probes.PROBES.values())))


FORGED = {
    "locked": lambda: Locked([], dict.fromkeys(run_probes.PROBES, True)),
    "ready": lambda: Ready({"backward": ("gradients", "step")}, keeps_state=False),
}


class Forger(Hostile):
    """Sends a reply of its own while it is started."""

    def __init__(self, attack: str, aim: dict, at: int = 1):
        super().__init__("files:credentials", aim, at)
        inside.worker()._sock.send(encoder.encode(FORGED[attack]()))
