"""The jobs that the harness trains: three mixes of plugins of all roles, with state."""

import json
import shutil
from pathlib import Path

from ringfence.isolation.host.limits.memory_budget import total_bytes

STEPS = 48
SNAPSHOT_EVERY = 7
CHECKPOINT_EVERY = 10
#: What a plugin that hangs costs.
DEADLINE_S = 1.0
START_DEADLINE_S = 8.0
#: Of one worker: enough for torch, and little enough to be leaked full in a moment.
_BUDGET_BYTES = 400 << 20
_LARGEST_FRACTION = 0.15

#: Which of its plugins fail of themselves, with their methods, by mix. In the last one all harm is done
#: to plugins that come with ringfence.
FAULTY = (
    {"sway": ("forward", "backward"), "gauge": ("backward",)},
    {"blur": ("forward", "backward"), "roll": ("forward", "backward"), "gauge": ("backward",)},
    {},
)
#: The plugin that notes each step as it is begun, by mix: one that is called once a step, and waited for.
NOTING = ("sway", "roll", "sway")
_OWN = ("blur", "sway", "roll", "gauge")

_ABOUT = "Metadata-Version: 2.1\nName: chaos\nVersion: 1.0\nRequires-Dist: ringfence>=0.1\n"
_POINTS = """\
[ringfence.plugins]
blur = chaos_plugins.parts:Blur
sway = chaos_plugins.parts:Sway
roll = chaos_plugins.parts:Roll
gauge = chaos_plugins.parts:Gauge
"""
_PACKAGE = "chaos_plugins"


def install(site):
    """Make a folder that holds the harness's own plugins as an installed distribution."""
    shutil.copytree(
        Path(__file__).parent / "plugins", site / _PACKAGE, ignore=shutil.ignore_patterns("__pycache__")
    )
    info = site / "chaos-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(_ABOUT)
    (info / "entry_points.txt").write_text(_POINTS)
    files = [path.relative_to(site) for path in site.rglob("*") if path.is_file()]
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def write_job(path, mix, plans, marks, policies):
    """Write the job file.

    Args:
        path: Of the file.
        mix: Place in ``FAULTY``.
        plans: Plugin to the faults that it makes of itself.
        marks: Folder that these plugins may write to.
        policies: Plugin to its ``on_failure``, where that is not what it is by default.
    """
    job = {
        "model": {"name": "cnn", "width": 4},
        "data": {"name": "mnist10k", "limit": 320},
        "steps": STEPS,
        "batch_size": 16,
        "grad_accum_steps": 2 if mix == 1 else 1,
        "eval_every": 24,
        "checkpoint_every": CHECKPOINT_EVERY,
        "snapshot_every": SNAPSHOT_EVERY,
        "schedule": {"name": "cosine", "warmup_steps": 5},
        "seed": 11,
        "threads": 1,
        "device": "cpu",
        "plugins": [_entry(*each, marks, plans, policies) for each in _plugins(mix)],
    }
    # JSON is YAML.
    path.write_text(json.dumps(job, indent=1))


def _plugins(mix):
    augment = ("augment", {"ops": [{"affine": {"degrees": 10, "p": 0.5}}]}, {"workers": 2})
    gradclip = ("gradclip", {"max_norm": 1.0}, {})
    gauge = ("gauge", {}, {"every": 2})
    if mix == 0:
        return augment, ("sway", {}, {}), ("optim", {"algorithm": "lamb", "lr": 0.01}, {}), gauge
    if mix == 1:
        return ("blur", {}, {}), gradclip, ("roll", {}, {}), gauge
    adamw = ("optim", {"algorithm": "adamw", "lr": 0.003}, {})
    return augment, gradclip, ("sway", {}, {}), adamw, ("monitor", {"bins": 8}, {"every": 8})


def _entry(name, options, settings, marks, plans, policies):
    entry = {name: options, "deadline_s": DEADLINE_S, "start_deadline_s": START_DEADLINE_S, **settings}
    share = _BUDGET_BYTES * settings.get("workers", 1) / total_bytes()
    entry["memory_fraction"] = min(round(share, 4), _LARGEST_FRACTION)
    if name in _OWN:
        entry[name] = {**options, "marks": str(marks), "plan": plans.get(name, [])}
        entry["write"] = [str(marks)]
    if name in policies:
        entry["on_failure"] = policies[name]
    return entry
