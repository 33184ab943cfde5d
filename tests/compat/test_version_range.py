"""The compatibility rule, decided with indexes of invented series."""

import ast
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.version import Version

from ringfence.compat.findings import Finding
from ringfence.compat.source.plugin_source import read_plugin
from ringfence.compat.source_fit import MOVED
from ringfence.compat.version_range import Candidate, check, window
from ringfence.hooks.series import Index, Series, SeriesSnapshot

ARGUMENTS = {"gradients": "Gradients", "step": "StepInfo"}
FINALS = {
    "0.9": ("0.9.0",),
    "1.4": ("1.4.0", "1.4.9"),
    "1.5": ("1.5.0", "1.5.4"),
    "1.6": ("1.6.0",),
    "1.7": ("1.7.0",),
}


def snapshot(series, **more):
    """Return a series in which a gradient plugin has two hooks."""
    values = {
        "roles": frozenset({"gradient"}),
        "hooks": {"gradient_forward": {"loss": "float", **ARGUMENTS}, "gradient_backward": ARGUMENTS},
        "names": frozenset({"passthrough", "StepInfo"}),
        "types": {"StepInfo": frozenset({"epoch"}), "Gradients": frozenset({"clone", "flat"})},
    }
    return SeriesSnapshot(series, **(values | more))


def index_of(*names, yanked=(), snapshots=None):
    series = [Series(name, FINALS[name], frozenset(yanked) & set(FINALS[name])) for name in names]
    return Index(tuple(series), {name: snapshot(name) for name in names} if snapshots is None else snapshots)


#: Of a range that ends before a candidate.
OUTSIDE = ["E-EXCLUDES-CORE", "I-CAPPED", "I-PROVISIONAL"]

FIVE = index_of("0.9", "1.4", "1.5", "1.6", "1.7")
FOUR = index_of("0.9", "1.4", "1.5", "1.6")

CLIP = """
from ringfence import passthrough

class Clip:
    role = "gradient"
    forward = passthrough

    def backward(self, gradients, step):
        return None
"""


@pytest.fixture
def source(tmp_path):
    """Return a function that reads a plugin's text."""

    def read(text=CLIP):
        (tmp_path / "acme_clip.py").write_text(text)
        return read_plugin("acme_clip", "Clip", [str(tmp_path)])

    return read


@pytest.fixture
def judge(source):
    """Return a function that judges a range, or a text."""

    def run(*requires, index=FOUR, running="1.6.0", text=CLIP, distribution="acme-clip"):
        candidate = Candidate("clip", distribution, "0.3.0", requires)
        return check(candidate, source(text), index, running)

    return run


def rules(verdict):
    return [finding.rule for finding in verdict.findings]


# Steps 1 to 3. Series 0.9, 1.4 (1.4.0, 1.4.9), 1.5 (1.5.0, 1.5.4), 1.6 (1.6.0); running 1.6.0.


@pytest.mark.parametrize(
    ("requires", "expected"),
    [
        ([], ["E-NO-DECLARATION"]),
        (["torch>=2"], ["E-NO-DECLARATION"]),
        (["ringfence"], ["E-NO-LOWER-BOUND"]),
        (["ringfence<2"], ["E-NO-LOWER-BOUND", "I-CAPPED"]),
        (["ringfence @ https://example.org/ringfence.whl"], ["E-URL"]),
        (["ringfence>=1.4"], []),
        (["ringfence>=1.4.9"], []),
        (["ringfence>=1.4.10"], ["E-SPAN"]),
        (["ringfence>=1.4,!=1.5.4"], ["W-PARTIAL"]),
        (["ringfence>=0.9"], []),
        (["ringfence>=1.5"], ["E-SPAN"]),
        (["ringfence>1.5.4"], ["E-SPAN"]),
        (["ringfence==1.6.*"], ["E-SPAN", "I-CAPPED"]),
        (["ringfence~=1.6.0"], ["E-SPAN", "I-CAPPED"]),
        (["ringfence==1.6.0"], ["E-SPAN", "I-CAPPED"]),
        (["ringfence~=1.4"], ["I-CAPPED"]),
        (["ringfence>=1.4,!=1.5.*"], ["E-SPAN"]),
        (["ringfence>=1.4,<1.6"], ["E-EXCLUDES-CORE", "I-CAPPED"]),
        (["ringfence>=1.4,<1.7"], ["I-CAPPED"]),
        (["ringfence>=1.7"], ["E-EXCLUDES-CORE", "E-SPAN"]),
        (["ringfence>=1.4; extra == 'x'"], ["E-NO-DECLARATION"]),
        (["ringfence>=1.5; python_version < '3'", "ringfence>=1.4"], []),
        (["ringfence>=1.5; python_version < '3'", "ringfence>=1.6"], ["E-SPAN"]),
        (["ringfence>=1.4", "ringfence>=1.5"], ["E-SPAN"]),
        (["RingFence>=1.4"], []),
        (["ringfence >= one"], ["E-NO-DECLARATION"]),
        (["ringfence>=1.4", "ringfence ~> 2"], ["E-NO-DECLARATION"]),
        (["ringfence-extras>=1.4"], ["E-NO-DECLARATION"]),
    ],
)
def test_the_declared_range_decides(judge, requires, expected):
    assert rules(judge(*requires)) == expected


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ('ringfence>=1.4; os_name ~= "posix"', "Undefined"),
        ('ringfence>=1.4; "x" in extras', "its marker names extras"),
        ('ringfence>=1.4; "x" in dependency_groups', "its marker names dependency_groups"),
        (f"ringfence>=1.4; {'(' * 3000}os_name == 'a'{')' * 3000}", "characters; at most 500"),
        (f"ringfence>=1.{'4' * 5000}", "characters; at most 500"),
        (f"ringfence; python_version > '3.{'4' * 5000}'", "characters; at most 500"),
        ("ringfence>=1.4 ???", "Expected"),
        ("???", "Expected"),
        ("rïngfence>=1.4", "Expected"),
    ],
)
@pytest.mark.parametrize("others", [(), ("ringfence>=1.4",)], ids=["alone", "beside another"])
def test_an_entry_on_the_core_that_says_nothing_is_quoted_with_why(judge, entry, says, others):
    (finding,) = judge(*others, entry).findings

    assert finding.rule == "E-NO-DECLARATION"
    assert entry[:70] in finding.text
    assert says in finding.text
    assert len(finding.text) < 400


@pytest.mark.parametrize(
    "entry", ["ringfence-extras @@ x", "torch>>2", "torch; 'x' in extras", f"torch>=1.{'4' * 5000}"]
)
def test_an_entry_on_something_else_is_not_the_plugins_range(judge, entry):
    assert rules(judge("ringfence>=1.4", entry)) == []
    (finding,) = judge(entry).findings
    assert (finding.rule, entry in finding.text) == ("E-NO-DECLARATION", False)


def test_a_range_in_thousands_of_entries_is_not_joined(judge):
    (finding,) = judge(*[f"ringfence!=1.4.{n}" for n in range(10_000)]).findings

    assert finding.rule == "E-NO-DECLARATION"
    assert "stands in 10000 entries" in finding.text


@pytest.mark.parametrize(
    ("requires", "running", "series", "expected"),
    [
        ("ringfence>=1.4", "1.7.0rc1", ("1.5", "1.6", "1.7"), ["I-PROVISIONAL"]),
        ("ringfence>=1.4", "1.7.0.dev2", ("1.5", "1.6", "1.7"), ["I-PROVISIONAL"]),
        ("ringfence>=1.7", "1.7.0rc1", ("1.5", "1.6", "1.7"), ["E-SPAN", "I-PROVISIONAL"]),
        (
            "ringfence>=1.4,<1.7",
            "1.7.0rc1",
            ("1.5", "1.6", "1.7"),
            ["E-EXCLUDES-CORE", "I-CAPPED", "I-PROVISIONAL"],
        ),
        # A candidate is judged as its series, wherever the order of versions puts it.
        ("ringfence>=1.4,<1.8", "1.7.0rc1", ("1.5", "1.6", "1.7"), ["I-CAPPED", "I-PROVISIONAL"]),
        ("ringfence>=1.4,<=1.7", "1.7.0rc1", ("1.5", "1.6", "1.7"), ["I-CAPPED", "I-PROVISIONAL"]),
        ("ringfence~=1.5", "1.7.0rc1", ("1.5", "1.6", "1.7"), ["I-CAPPED", "I-PROVISIONAL"]),
        ("ringfence>=1.4,<=1.6.99", "1.7.0rc1", ("1.5", "1.6", "1.7"), OUTSIDE),
        ("ringfence>=1.4,!=1.7.*", "1.7.0rc1", ("1.5", "1.6", "1.7"), ["E-EXCLUDES-CORE", "I-PROVISIONAL"]),
        ("ringfence>=1.6", "1.7.0rc1", ("1.5", "1.6", "1.7"), ["E-SPAN", "I-PROVISIONAL"]),
        # One that is named is meant: by itself, and not as its series.
        (
            "ringfence>=1.7.0rc2",
            "1.7.0rc1",
            ("1.5", "1.6", "1.7"),
            ["E-EXCLUDES-CORE", "E-SPAN", "I-PROVISIONAL"],
        ),
        (
            "ringfence>=1.4,!=1.7.0rc1",
            "1.7.0rc1",
            ("1.5", "1.6", "1.7"),
            ["E-EXCLUDES-CORE", "I-PROVISIONAL"],
        ),
        ("ringfence>=1.4,!=1.7.0rc1", "1.7.0rc2", ("1.5", "1.6", "1.7"), ["I-PROVISIONAL"]),
        ("ringfence>=1.4,!=1.6.0rc1", "1.7.0rc1", ("1.5", "1.6", "1.7"), ["I-PROVISIONAL"]),
        ("ringfence>=1.4,!=1.6.*,!=1.7.0rc1", "1.7.0rc2", ("1.5", "1.6", "1.7"), ["E-SPAN", "I-PROVISIONAL"]),
        (
            "ringfence>=1.7.1",
            "1.7.0rc1",
            ("1.5", "1.6", "1.7"),
            ["E-EXCLUDES-CORE", "E-SPAN", "I-PROVISIONAL"],
        ),
        ("ringfence>=1.4", "1.6.0+cu121", ("1.4", "1.5", "1.6"), []),
        ("ringfence>=1.4", "1.6.1.dev0+g12ab", ("1.4", "1.5", "1.6"), ["I-PROVISIONAL"]),
        ("ringfence>=1.4", "1.6.3", ("1.4", "1.5", "1.6"), []),
        ("ringfence>=0.9", "1.5.4", ("0.9", "1.4", "1.5"), []),
    ],
)
def test_prereleases_and_local_labels_of_the_core(judge, requires, running, series, expected):
    # 1.7 is known as a snapshot only: it has no final yet.
    index = Index(FOUR.series, FOUR.snapshots | {"1.7": snapshot("1.7")})

    verdict = judge(requires, index=index, running=running)

    assert verdict.window == series
    assert rules(verdict) == expected


def test_a_range_that_ends_before_an_open_series_is_told_of_the_core_and_what_to_write(judge):
    index = Index(FOUR.series, FOUR.snapshots | {"1.7": snapshot("1.7")})

    message = judge("ringfence>=1.4,<1.7", index=index, running="1.7.0rc1").message()

    assert "core 1.7.0rc1 needs a plugin valid for 1.5, 1.6 and 1.7" in message
    assert "declares ringfence<1.7,>=1.4, which leaves out the running core 1.7.0rc1" in message
    assert "I-PROVISIONAL    series 1.7 is still open; its hooks may still change" in message
    assert "plugin author:   declare ringfence>=1.5\n" in message
    assert "you:             install a core that ringfence<1.7,>=1.4 admits" in message


@pytest.mark.parametrize("running", ["1.7.0rc1", "1.7.0rc2", "1.7.0.dev3", "1.7.0", "1.7.1rc1"])
def test_a_role_of_an_open_series_is_bound_to_its_first_candidate(judge, running):
    """``>=1.7`` is no bound that pip would take 1.7.0rc1 for."""
    series = Series("1.7", () if running.startswith("1.7.0") and running != "1.7.0" else ("1.7.0",))
    hooks = {"probe_forward": ARGUMENTS, "probe_backward": ARGUMENTS}
    probed = snapshot("1.7", roles=frozenset({"probe"}), hooks=hooks)
    index = Index((*FOUR.series, *([series] if series.finals else [])), FOUR.snapshots | {"1.7": probed})
    bound = "1.7" if series.finals else "1.7.0rc1"

    def advised(requires):
        verdict = judge(requires, index=index, running=running, text=CLIP.replace("gradient", "probe", 1))
        return verdict.window, verdict.decision, {item.advice for item in verdict.findings if item.refuses}

    assert advised(f"ringfence>={bound}") == (("1.7",), "accepted", set())
    assert advised("ringfence>=1.6") == (("1.7",), "refused", {f"declare ringfence>={bound}"})
    assert advised("ringfence") == (("1.7",), "refused", {f"declare ringfence>={bound}"})


def test_the_window_moves_with_the_running_core(judge):
    assert judge("ringfence>=1.4", index=FIVE, running="1.7.0").window == ("1.5", "1.6", "1.7")
    assert judge("ringfence>=1.5", index=FIVE, running="1.7.0").decision == "accepted"
    assert judge("ringfence>=1.6", index=FIVE, running="1.7.0").decision == "refused"


def test_series_follow_the_index_not_arithmetic():
    series = (Series("1.9", ("1.9.0",)), Series("1.10", ("1.10.0",)), Series("2.0", ("2.0.0",)))

    found = window(Index(series), Version("2.0.0"))

    assert [item.name for item in found] == ["1.9", "1.10", "2.0"]


@pytest.mark.parametrize(
    ("role", "running", "expected"),
    [
        ("gradient", "1.7.0", ("1.5", "1.6", "1.7")),
        ("probe", "1.7.0", ("1.6", "1.7")),
        ("probe", "1.6.0", ("1.6",)),
        ("probe", "1.5.4", ("0.9", "1.4", "1.5")),  # not there yet: no series is the first to have it
        ("sampler", "1.7.0", ("1.5", "1.6", "1.7")),  # in 1.4 only
        ("trial", "1.7.0", ("1.5", "1.6", "1.7")),
        (None, "1.7.0", ("1.5", "1.6", "1.7")),
    ],
)
def test_the_window_of_a_role_begins_with_the_series_that_brought_it(role, running, expected):
    roles = {"1.4": {"gradient", "sampler"}, "1.6": {"gradient", "probe"}, "1.7": {"gradient", "probe"}}
    snapshots = {
        name: snapshot(name, roles=frozenset(roles.get(name, {"gradient"}))) for name in FIVE.snapshots
    }

    found = window(replace(FIVE, snapshots=snapshots), Version(running), role)

    assert tuple(series.name for series in found) == expected


def test_a_series_without_a_record_may_have_had_the_role():
    snapshots = {name: snapshot(name) for name in ("1.5", "1.6")}

    found = window(index_of("0.9", "1.4", "1.5", "1.6", snapshots=snapshots), Version("1.6.0"), "gradient")

    assert [series.name for series in found] == ["1.4", "1.5", "1.6"]


def test_a_role_that_is_new_is_said_to_be(judge):
    """Told by what the window is: the core has had more series."""
    index = varied(v1_5={"roles": frozenset({"gradient", "probe"})}, v1_6={"roles": frozenset({"probe"})})

    verdict = judge("ringfence>=1.5", index=index, text=CLIP.replace("gradient", "probe", 1))

    assert verdict.window == ("1.5", "1.6")
    assert "its role has been in 2 series so far, and the plugin is held to all of them" in verdict.message()


@pytest.mark.parametrize(
    ("yanked", "requires", "series", "expected"),
    [
        (["1.5.4"], "ringfence>=1.4,!=1.5.0", ("1.4", "1.5", "1.6"), ["E-SPAN"]),
        (["1.5.4"], "ringfence>=1.4,!=1.5.4", ("1.4", "1.5", "1.6"), []),
        (["1.5.0", "1.5.4"], "ringfence>=1.4", ("0.9", "1.4", "1.6"), ["E-SPAN"]),
        (["1.5.0", "1.5.4"], "ringfence>=0.9", ("0.9", "1.4", "1.6"), []),
        (["1.5.0", "1.5.4"], "ringfence>=0.9,!=1.5.*", ("0.9", "1.4", "1.6"), []),
        (["1.6.0"], "ringfence>=1.4", ("1.4", "1.5", "1.6"), ["W-YANKED-CORE"]),
    ],
)
def test_withdrawn_versions_do_not_count(judge, yanked, requires, series, expected):
    verdict = judge(requires, index=index_of("0.9", "1.4", "1.5", "1.6", yanked=yanked))

    assert verdict.window == series
    assert rules(verdict) == expected


@pytest.mark.parametrize(
    ("names", "running", "requires", "expected"),
    [
        (["0.9"], "0.9.0", "ringfence>=0.9", ["I-BOOTSTRAP"]),
        (["0.9", "1.4"], "1.4.0", "ringfence>=1.4", ["E-SPAN", "I-BOOTSTRAP"]),
        (["0.9", "1.4"], "1.4.0", "ringfence>=0.9", ["I-BOOTSTRAP"]),
        (["0.9", "1.4", "1.5"], "1.5.0", "ringfence>=0.9", []),
    ],
)
def test_fewer_than_three_series_are_said_to_be_fewer(judge, names, running, requires, expected):
    verdict = judge(requires, index=index_of(*names), running=running)

    assert rules(verdict) == expected
    if "I-BOOTSTRAP" in expected:
        assert f"this core has had {len(names)} series so far" in verdict.message()


def test_a_builtin_plugin_is_in_step_and_needs_no_declaration(judge):
    verdict = judge(distribution="ringfence")

    assert verdict.decision == "accepted"
    assert rules(verdict) == ["I-IN-STEP"]
    assert verdict.window == ("1.6",)


# Step 4: the text against every series that the range admits.


def varied(**by_series):
    """Return four series of which some differ."""
    snapshots = {name: snapshot(name) for name in ("0.9", "1.4", "1.5", "1.6")}
    for name, more in by_series.items():
        series = name.removeprefix("v").replace("_", ".")
        snapshots[series] = snapshot(series, **more)
    return index_of("0.9", "1.4", "1.5", "1.6", snapshots=snapshots)


WITH_LOSS = {"hooks": {"gradient_forward": ARGUMENTS, "gradient_backward": {**ARGUMENTS, "loss": "float"}}}
USES_LOSS = CLIP.replace("gradients, step)", "gradients, loss, step)")


def test_an_argument_that_a_window_series_lacks_is_refused(judge):
    verdict = judge("ringfence>=1.4", text=USES_LOSS, index=varied(v1_5=WITH_LOSS, v1_6=WITH_LOSS))

    assert verdict.decision == "refused"
    (finding,) = verdict.findings
    assert (finding.rule, finding.series, finding.line) == ("E-ARG", ("1.4",), 8)
    assert finding.where.endswith("acme_clip.py:8")
    assert "'loss' is not an argument of gradient_backward in 1.4" in verdict.message()
    assert finding.advice == "drop 'loss' or give it a default and declare ringfence>=1.4"


def test_a_range_that_claims_an_old_series_is_refused_with_the_bound_to_write(judge):
    index = varied(v1_4=WITH_LOSS, v1_5=WITH_LOSS, v1_6=WITH_LOSS)

    refused = judge("ringfence>=0.9", text=USES_LOSS, index=index)
    accepted = judge("ringfence>=1.4", text=USES_LOSS, index=index)

    assert [(f.rule, f.series, f.advice) for f in refused.findings] == [
        ("E-ARG", ("0.9",), "declare ringfence>=1.4")
    ]
    assert accepted.decision == "accepted"


def test_an_argument_with_a_default_is_only_warned_about(judge):
    text = CLIP.replace("gradients, step)", "gradients, step, loss=None)")

    verdict = judge("ringfence>=1.4", text=text, index=varied(v1_6=WITH_LOSS))

    assert verdict.decision == "accepted"
    assert [(f.rule, f.series) for f in verdict.findings] == [("W-DEFAULT-ARG", ("1.4", "1.5"))]


def test_a_hook_that_a_series_lacks_is_refused_unless_passed_through(judge):
    without = {"hooks": {"gradient_backward": ARGUMENTS}}
    text = CLIP.replace("forward = passthrough", "def forward(self, loss): return None")

    assert rules(judge("ringfence>=1.4", text=text, index=varied(v1_4=without))) == ["E-HOOK"]
    assert judge("ringfence>=1.4", index=varied(v1_4=without)).decision == "accepted"


def test_a_role_that_a_series_lacks_is_refused(judge):
    verdict = judge("ringfence>=1.4", index=varied(v1_5={"roles": frozenset({"monitor"})}))

    assert [(f.rule, f.series) for f in verdict.findings] == [("E-ROLE", ("1.5",))]
    assert "use one of monitor" in verdict.message()


def test_a_name_that_a_series_lacks_is_refused_unless_its_absence_is_caught(judge):
    index = varied(v1_6={"names": frozenset({"passthrough", "StepInfo", "Newer"})})
    guarded = f"try:\n    from ringfence import Newer\nexcept ImportError:\n    Newer = None\n{CLIP}"

    refused = judge("ringfence>=1.4", text=f"from ringfence import Newer\n{CLIP}", index=index)

    assert [(f.rule, f.series, f.line) for f in refused.findings] == [("E-NAME", ("1.4", "1.5"), 1)]
    assert judge("ringfence>=1.4", text=guarded, index=index).decision == "accepted"


def test_what_is_not_public_is_refused_in_every_series(judge):
    verdict = judge("ringfence>=1.4", text=f"from ringfence.hooks.types import StepInfo\n{CLIP}")

    assert [(f.rule, f.series) for f in verdict.findings] == [("E-NAME", ("1.4", "1.5", "1.6"))]
    assert "ringfence.hooks.types.StepInfo is not public" in verdict.message()


def test_a_private_module_that_has_moved_is_told_with_where_it_lies(judge):
    verdict = judge("ringfence>=1.4", text=f"from ringfence.hooks.plain import pack\n{CLIP}")

    assert "ringfence.hooks.plain.pack is not public" in verdict.message()
    assert "it lies in ringfence.tensors.pytree now" in verdict.message()


def test_where_private_modules_have_moved_to_is_where_they_lie():
    moved = json.loads(MOVED.read_text())

    assert [new for new in moved.values() if importlib.util.find_spec(new) is None] == []


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("step.epoch", []),
        ("step.lr_factor", [("E-ATTR", ("1.4", "1.5"))]),
        ("gradients.flat().norm()", []),
        ("gradients.nothing", [("E-ATTR", ("1.4", "1.5", "1.6"))]),
        ("getattr(step, 'lr_factor', 1.0)", []),
        ("hasattr(step, 'lr_factor') and step.lr_factor", []),
        ("getattr(step, 'lr_factor')", [("E-ATTR", ("1.4", "1.5"))]),
    ],
)
def test_attributes_of_what_hooks_receive_are_checked(judge, expression, expected):
    newer = {"StepInfo": frozenset({"epoch", "lr_factor"}), "Gradients": frozenset({"clone", "flat"})}
    text = CLIP.replace("return None", f"return {expression}")

    verdict = judge("ringfence>=1.4", text=text, index=varied(v1_6={"types": newer}))

    assert [(f.rule, f.series) for f in verdict.findings] == expected


def test_a_deprecated_argument_is_warned_about_with_the_series_that_drops_it(judge):
    index = varied(v1_6={"deprecated": {"gradient_backward.step": "1.8"}})

    verdict = judge("ringfence>=1.4", index=index)

    assert verdict.decision == "accepted"
    assert "gradient_backward.step will go in 1.8; deprecated in 1.6" in verdict.message()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CLIP.replace('    role = "gradient"\n', ""), ["E-ROLE"]),
        (CLIP.replace("    forward = passthrough\n", ""), ["E-METHOD"]),
        (CLIP.replace("    def backward", "    async def backward"), ["E-METHOD"]),
        (CLIP.replace("    def backward", "    @staticmethod\n    def backward"), ["E-METHOD"]),
        ("Clip = 3", ["U-SOURCE"]),
        ("class Clip(: ...", ["U-SOURCE"]),
        (CLIP.replace('"gradient"', "ROLE"), ["U-ROLE"]),
        (CLIP.replace("return None", "return getattr(step, self.name)"), ["U-ATTRIBUTES"]),
        (f"from ringfence import *\n{CLIP}", ["U-NAMES"]),
    ],
)
def test_what_neither_text_nor_loading_settles_is_refused(judge, text, expected):
    verdict = judge("ringfence>=1.4", text=text)

    assert rules(verdict) == expected
    assert verdict.decision == "refused"
    assert "plugin author:" in verdict.message()


@pytest.mark.parametrize(
    "text",
    [
        CLIP.replace("def backward", "@wrapped\n    def backward").replace(
            "gradients, step", "*args, **kwargs"
        ),
        CLIP.replace("    def backward", "    @wrapped\n    def backward"),
        CLIP.replace("class Clip", "@register\nclass Clip"),
        CLIP.replace("class Clip:", "class Clip(Mystery):"),
        CLIP.replace("forward = passthrough", "forward = build()"),
    ],
)
def test_what_loading_settles_is_not_accepted_before(judge, text):
    verdict = judge("ringfence>=1.4", text=text)

    assert verdict.decision == "could not tell"
    assert "U-DYNAMIC" in rules(verdict)
    assert "decided when the plugin is loaded" in verdict.message()
    assert verdict.with_findings([]).decision == "accepted"
    assert verdict.with_findings([Finding("E-LOADED", "no")]).decision == "refused"


def test_a_series_without_a_record_is_noted_when_old_and_refused_in_the_window(judge):
    kept = {name: snapshot(name) for name in ("1.4", "1.5", "1.6")}
    lost = {name: snapshot(name) for name in ("0.9", "1.4", "1.6")}
    four = ("0.9", "1.4", "1.5", "1.6")

    old = judge("ringfence>=0.9", index=index_of(*four, snapshots=kept))
    damaged = judge("ringfence>=0.9", index=index_of(*four, snapshots=lost))

    assert (old.decision, rules(old), old.findings[0].series) == ("accepted", ["I-UNKNOWN-SERIES"], ("0.9",))
    assert (damaged.decision, rules(damaged)) == ("refused", ["U-SERIES"])


def test_the_message_says_verdict_numbers_series_file_line_and_bound(judge):
    verdict = judge("ringfence>=1.5", text=USES_LOSS)
    lines = verdict.message().splitlines()

    assert lines[0] == (
        "REFUSED  plugin 'clip' (acme-clip 0.3.0)   core 1.6.0 needs a plugin valid for 1.4, 1.5 and 1.6"
    )
    assert "E-SPAN" in lines[1]
    assert "declares ringfence>=1.5   covers 1.5 and 1.6 (2 of 3); missing 1.4" in lines[1]
    assert "E-ARG" in lines[2]
    assert "acme_clip.py:8  backward(gradients, loss, step): 'loss'" in lines[2]
    assert lines[2].endswith("in 1.5 and 1.6")
    assert lines[3].startswith("  plugin author:   declare ringfence>=1.4; drop 'loss'")
    assert "you:" in lines[4]
    assert "acme-clip" in lines[4]


def test_a_plugin_that_needs_a_newer_core_is_refused_with_that_as_one_way_out(judge):
    message = judge("ringfence>=1.7").message()

    assert "declares ringfence>=1.7, which leaves out the running core 1.6.0" in message
    assert "you:             install a core that ringfence>=1.7 admits; or install another release" in message
    assert "install a core" not in judge("ringfence>=1.5").message()


def test_the_verdict_is_plain_data_for_other_programs(judge):
    data = judge("ringfence>=1.5").to_dict()

    assert ast.literal_eval(repr(data)) == data
    assert data["decision"] == "refused"
    assert data["findings"][0]["rule"] == "E-SPAN"
    assert data["window"] == ["1.4", "1.5", "1.6"]


def test_findings_without_a_file_have_no_place():
    assert Finding("E-SPAN", "x").where == ""
    assert Finding("E-ARG", "x", path=Path("/a/b/c/d.py"), line=3).where == "b/c/d.py:3"
