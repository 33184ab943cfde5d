"""A short real job as each series of the window: what neither text nor class shows is found by running it."""

import subprocess
import sys
from dataclasses import replace

import pytest
from packaging.version import Version

from ringfence.discovery.catalog import catalog, judge, source_of
from ringfence.hooks.series import Index, Series, SeriesSnapshot, series_of
from ringfence.plugins.earlier_series import Lack
from ringfence.run.replay import replay
from ringfence.version import __version__

CURRENT = series_of(Version(__version__))
NOW = Index.read().snapshots[CURRENT]
#: A series that never was, before all others.
EARLIER = replace(
    NOW,
    series="0.0",
    names=NOW.names - {"derive_seed"},
    types={**NOW.types, "StepInfo": NOW.types["StepInfo"] - {"lr_factor"}},
)
INDEX = Index((Series("0.0", ("0.0.1",)), Series(CURRENT, (__version__,))), {"0.0": EARLIER, CURRENT: NOW})

PLUGIN = """
import operator
import sys

from ringfence import passthrough


class Clip:
    role = "gradient"
    forward = passthrough

    def backward(self, gradients, step):
        {body}
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that replays a plugin, which must have passed all that does not run it."""

    def replayed(body):
        info = tmp_path / "acme_clip-0.3.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Name: acme-clip\nVersion: 0.3.0\nRequires-Dist: ringfence>=0.0\n")
        (info / "entry_points.txt").write_text("[ringfence.plugins]\nclip = acme_clip:Clip\n")
        (tmp_path / "acme_clip.py").write_text(PLUGIN.format(body=body))
        found = catalog([str(tmp_path)]).find("clip")
        source = source_of(found)
        verdict = judge(found, source, INDEX, __version__)
        assert verdict.decision == "accepted", verdict.message()
        return replay(found, source, verdict, index=INDEX)

    return replayed


@pytest.mark.room
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('operator.attrgetter("lr_factor")(step)', "no attribute 'lr_factor' in series 0.0"),
        pytest.param(
            'sys.modules["ringfence"].derive_seed(1)',
            "has no attribute 'derive_seed' in series 0.0",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_a_use_that_the_text_does_not_show_fails_as_the_series_that_lacks_it(run, body, says):
    (finding,) = run(body)

    assert (finding.rule, finding.series) == ("E-REPLAY", ("0.0",))
    assert says in finding.text
    assert finding.refuses
    assert "0.0" in finding.advice


@pytest.mark.soak
def test_a_plugin_that_provides_for_it_runs_as_each_series(run):
    (finding,) = run('hasattr(step, "lr_factor") and operator.attrgetter("lr_factor")(step)')

    assert finding.rule == "I-REPLAYED"
    assert "as 0.0 and " in finding.text


@pytest.mark.soak
def test_a_plugin_that_the_job_does_not_suit_is_not_refused_for_it(run):
    """Its first layer tells the number of channels: 28 x 28 pixels of one, or 32 x 32 of three."""
    colour = "next(iter(gradients.values())).shape[1] == 3 * 32 * 32"
    (finding,) = run(f'assert {colour}, "three channels"; operator.attrgetter("lr_factor")(step)')

    assert finding.rule == "E-REPLAY"
    assert "AssertionError" not in finding.text
    assert "no attribute 'lr_factor' in series 0.0" in finding.text


def test_a_plugin_that_raises_at_every_call_is_not_ok_and_the_line_is_told(run, tmp_path):
    (finding,) = run("return gradient")

    assert finding.rule == "U-REPLAY"
    assert finding.refuses
    assert "NameError: name 'gradient' is not defined" in finding.text
    line = PLUGIN.splitlines().index("        {body}") + 1
    assert (finding.path, finding.line) == (tmp_path / "acme_clip.py", line)


# What is missing, and how it is hidden.


def test_what_is_missing_is_told_by_the_records():
    earlier = replace(
        NOW,
        series="0.0",
        names=NOW.names - {"connect"},
        hooks={
            hook: {name: kind for name, kind in arguments.items() if name != "updates"}
            for hook, arguments in NOW.hooks.items()
            if hook != "augment_backward"
        },
        types={name: found - {"epoch"} for name, found in NOW.types.items() if name != "Report"},
    )

    lack = Lack.between(earlier, NOW)

    assert (lack.series, lack.names, lack.hooks) == ("0.0", ("connect",), ("augment_backward",))
    assert lack.arguments == {"monitor_backward": ("updates",)}
    assert lack.attributes == {"StepInfo": ("epoch",)}
    assert Lack.between(NOW, NOW).is_empty
    assert not lack.is_empty


def test_a_method_is_given_what_the_series_has_and_not_called_without_a_hook():
    lack = Lack("0.0", hooks=("augment_backward",), arguments={"gradient_backward": ("parameters",)})
    accepts = {"forward": ("batch",), "backward": ("gradients", "parameters")}

    assert lack.offered("gradient", accepts) == {"forward": ("batch",), "backward": ("gradients",)}
    assert lack.offered("augment", accepts) == {"forward": ("batch",)}


def test_a_series_that_dropped_something_lacks_nothing_for_that():
    richer = SeriesSnapshot("0.0", NOW.roles, NOW.hooks, NOW.names | {"gone"}, NOW.types)

    assert Lack.between(richer, NOW).is_empty


@pytest.mark.room
def test_hiding_is_for_the_plugin_alone(tmp_path):
    """In a process of its own, as it is for good."""
    (tmp_path / "acme.py").write_text(
        "def name(): from ringfence import connect\n"
        "def attribute(step): return step.epoch\n"
        "def clone(gradients): return gradients.clone()\n"
        "def rest(step): return step.global_step\n"
        "def draft(gradients): return gradients.draft()\n"
        "def either(gradients): return getattr(gradients, 'draft', gradients.items)()\n"
    )
    (tmp_path / "acme_more.py").write_text("def attribute(step): return step.epoch\n")
    (tmp_path / "other.py").write_text("def attribute(step): return step.epoch\n")
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import acme, acme_more, other, torch, ringfence
from ringfence import StepInfo, TensorMap, connect
from ringfence.plugins.earlier_series import Lack
from ringfence.tensors.changeable import Changeable
lack = Lack("0.0", names=("connect",), attributes={"StepInfo": ("epoch",), "Gradients": ("clone",)})
lack.hide(["acme.plugin", "acme_more"])
step, gradients = StepInfo(3), TensorMap.like({"w": torch.ones(2)})
changeable = Changeable(gradients, gradients.clone())
tries = (lambda: acme.attribute(step), lambda: acme_more.attribute(step))
tries += (lambda: acme.clone(gradients), lambda: acme.draft(changeable))
for attempt in (acme.name, *tries):
    try:
        attempt()
    except (ImportError, AttributeError) as error:
        print(type(error).__name__)
assert other.attribute(step) == 0
assert acme.rest(step) == 3
assert "connect" not in ringfence.__all__
assert gradients.clone()["w"].sum() == 0
assert changeable.draft()["w"].sum() == 0
assert len(acme.either(changeable)) == 1
assert ringfence.__version__ == "0.0.0"
"""

    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ImportError", *["AttributeError"] * 4]
