"""Four invented series of the core, and distributions on disk that claim to work with them.

Series 1.6 is the core as it is, with one argument announced to go, and a role ``probe`` that came
with 1.5; 1.4 lacks a name, an argument, an attribute and a hook of it too. A role ``sampler`` went with 1.6.
Of 0.9 no record is kept. The examples on the pages of the rules are of these.
"""

from dataclasses import replace

from packaging.version import Version

from ringfence.discovery.catalog import catalog
from ringfence.hooks.series import Index, Series, series_of
from ringfence.version import __version__

NOW = Index.read().snapshots[series_of(Version(__version__))]
FINALS = {
    "0.9": ("0.9.0",),
    "1.4": ("1.4.0", "1.4.9"),
    "1.5": ("1.5.0", "1.5.4"),
    "1.6": ("1.6.0",),
}
RUNNING = "1.6.0"

BACKWARD = {"gradients": "Gradients", "step": "StepInfo"}
PROBED = {**NOW.hooks, "probe_backward": BACKWARD}
SAMPLED = {"sampler_backward": BACKWARD}
LATEST = replace(
    NOW,
    series="1.6",
    roles=NOW.roles | {"probe"},
    hooks=PROBED,
    deprecated={"optimizer_backward.loss": "1.8"},
)
BETWEEN = replace(NOW, series="1.5", roles=NOW.roles | {"probe", "sampler"}, hooks=PROBED | SAMPLED)
EARLIEST = replace(
    NOW,
    series="1.4",
    roles=NOW.roles | {"sampler"},
    names=NOW.names - {"connect"},
    types={**NOW.types, "StepInfo": NOW.types["StepInfo"] - {"pass_index"}},
    hooks={
        hook: {
            name: kind
            for name, kind in arguments.items()
            if (hook, name) != ("gradient_backward", "parameters")
        }
        for hook, arguments in (NOW.hooks | SAMPLED).items()
        if hook != "augment_backward"
    },
)
SNAPSHOTS = {"1.4": EARLIEST, "1.5": BETWEEN, "1.6": LATEST}

CLIP = """\
from ringfence import passthrough


class Clip:
    role = "gradient"
    forward = passthrough

    def backward(self, gradients, step):
        return None
"""


def index_of(*names, yanked=(), lost=()):
    """Return an index of some of the series; of those that are lost the record is gone."""
    series = [Series(name, FINALS[name], frozenset(yanked) & set(FINALS[name])) for name in names]
    kept = {name: SNAPSHOTS[name] for name in names if name in SNAPSHOTS and name not in lost}
    return Index(tuple(series), kept)


def install(
    folder, *, name="acme-clip", requires=("ringfence>=1.4",), text=CLIP, points=None, module="acme_clip"
):
    """Lay a distribution into ``folder`` as an installer would; ``text`` is its one module."""
    info = folder / f"{name.replace('-', '_')}-0.3.0.dist-info"
    info.mkdir(parents=True)
    needed = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3.0\n{needed}")
    declared = points or f"clip = {module}:Clip"
    (info / "entry_points.txt").write_text(f"[ringfence.plugins]\n{declared}\n")
    (folder / f"{module}.py").write_text(text)
    return folder


def found(folder):
    """Return what is installed in ``folder``."""
    return catalog([str(folder)])
