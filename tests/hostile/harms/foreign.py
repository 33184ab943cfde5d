"""Calls as programs of another kind make them; a filter by numbers would take them for others."""

import os
import subprocess
import sys
from pathlib import Path

from ringfence import PluginCrashedError

from ..harm import Harm

_TRIAL = "import machine; machine.in_memory('old')(20)"


def _has_none():
    """Return why there are no 32-bit calls on this machine, or ``""``: such a call is made to find out."""
    attacks = Path(__file__).parents[1] / "attacks"
    done = subprocess.run([sys.executable, "-c", _TRIAL], cwd=attacks, capture_output=True, check=False)
    return "" if done.returncode == 0 else f"this kernel takes no calls of 32 bits (status {done.returncode})"


HARMS = (
    (
        Harm(
            45,
            "surface:old_calls",
            (PluginCrashedError,),
            "its worker was ended by SIGSYS",
            {"ended": ""},
            plugin="Hostile",
            no_control=_has_none(),
        ),
    )
    if os.uname().machine == "x86_64"
    else ()
)
