"""One table of what may be declared, shipped and run, and what the check says of each.

Each case is a distribution on disk, found by its metadata and judged by it and by its text, as
before a run. The series are those of ``series.py``: 0.9 (no record), 1.4 (1.4.0, 1.4.9), 1.5 (1.5.0, 1.5.4)
and 1.6 (1.6.0); 1.6.0 is running unless the case says otherwise.
"""

from dataclasses import dataclass

import pytest

from ringfence.discovery.catalog import judge, source_of
from ringfence.hooks.errors import JobError

from .series import CLIP, RUNNING, found, index_of, install

FOUR = ("0.9", "1.4", "1.5", "1.6")
OLD = "I-UNKNOWN-SERIES"


@dataclass(frozen=True)
class Case:
    """A plugin, a core, and the verdict: the decision and the rules that it names."""

    says: str
    decision: str
    rules: tuple[str, ...] = ()
    requires: tuple[str, ...] = ("ringfence>=1.4",)
    running: str = RUNNING
    series: tuple[str, ...] = FOUR
    yanked: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    text: str = CLIP
    points: str = ""


def declares(text, decision, *rules, **more):
    return Case(text, decision, rules, tuple(text.split(" + ")), **more)


def taking(*arguments):
    return CLIP.replace("gradients, step", ", ".join(arguments))


def returning(expression):
    return CLIP.replace("return None", f"return {expression}")


def of_role(role):
    return CLIP.replace("gradient", role, 1)


def importing(line):
    return f"{line}\n{CLIP}"


CASES = [
    # The range.
    Case("no declaration", "refused", ("E-NO-DECLARATION",), ()),
    declares("torch>=2", "refused", "E-NO-DECLARATION"),
    declares("ringfence-extras>=1.4", "refused", "E-NO-DECLARATION"),
    declares("ringfence>=1.4; extra == 'x'", "refused", "E-NO-DECLARATION"),
    declares("ringfence >= one", "refused", "E-NO-DECLARATION"),
    declares("ringfence @ https://example.org/r.whl", "refused", "E-URL"),
    declares("ringfence", "refused", "E-NO-LOWER-BOUND", OLD),
    declares("ringfence<2", "refused", "E-NO-LOWER-BOUND", "I-CAPPED", OLD),
    declares("ringfence!=1.5.4", "refused", "E-NO-LOWER-BOUND", "W-PARTIAL", OLD),
    declares("ringfence>=1.4", "accepted"),
    declares("RingFence >= 1.4", "accepted"),
    declares("ringfence>=1.4.9", "accepted"),
    declares("ringfence>=1.4.10", "refused", "E-SPAN"),
    declares("ringfence>1.3", "accepted"),
    declares("ringfence>=0.9", "accepted", OLD),
    declares("ringfence>=1.5", "refused", "E-SPAN"),
    declares("ringfence>=1.4,<1.7", "accepted", "I-CAPPED"),
    declares("ringfence>=1.4,<1.6", "refused", "E-EXCLUDES-CORE", "I-CAPPED"),
    declares("ringfence~=1.4", "accepted", "I-CAPPED"),
    declares("ringfence~=1.6.0", "refused", "E-SPAN", "I-CAPPED"),
    declares("ringfence==1.6.*", "refused", "E-SPAN", "I-CAPPED"),
    declares("ringfence==1.6.0", "refused", "E-SPAN", "I-CAPPED"),
    declares("ringfence>=1.4,!=1.5.*", "refused", "E-SPAN"),
    declares("ringfence>=1.4,!=1.5.4", "accepted", "W-PARTIAL"),
    declares("ringfence>=1.4 + ringfence>=1.5", "refused", "E-SPAN"),
    declares("ringfence>=1.5; python_version < '3' + ringfence>=1.4", "accepted"),
    # A core that is newer than the plugin, or older than it needs.
    declares("ringfence>=1.7", "refused", "E-EXCLUDES-CORE", "E-SPAN"),
    declares("ringfence>=2,<3", "refused", "E-EXCLUDES-CORE", "E-SPAN", "I-CAPPED"),
    Case("1.6 on the core of 1.5", "refused", ("E-EXCLUDES-CORE", "E-SPAN"), ("ringfence>=1.6",), "1.5.4"),
    Case("a patch that is not in the index", "accepted", running="1.6.3"),
    # Pre-releases and local labels of the core. Of 1.7 there is no record yet, so nothing can be said.
    Case("a candidate of the running series", "accepted", ("I-PROVISIONAL",), running="1.6.1rc1"),
    Case(
        "a candidate, and a range from it on",
        "refused",
        ("E-SPAN", "I-PROVISIONAL"),
        ("ringfence>=1.6",),
        "1.6.0rc1",
    ),
    Case("a candidate of a series to come", "refused", ("U-SERIES", "I-PROVISIONAL"), running="1.7.0rc1"),
    Case("a build of the core", "accepted", running="1.6.0+cu121"),
    # Withdrawn versions.
    Case("the newest patch withdrawn", "accepted", yanked=("1.5.4",)),
    Case(
        "all but the withdrawn patch", "refused", ("E-SPAN",), ("ringfence>=1.4,!=1.5.0",), yanked=("1.5.4",)
    ),
    Case("a series withdrawn", "refused", ("E-SPAN",), yanked=("1.5.0", "1.5.4")),
    Case(
        "a series withdrawn, an older one too",
        "refused",
        ("U-SERIES",),
        ("ringfence>=0.9",),
        yanked=("1.5.0", "1.5.4"),
    ),
    Case("the running core withdrawn", "accepted", ("W-YANKED-CORE",), yanked=("1.6.0",)),
    # Fewer than three series.
    Case("the first series", "accepted", ("I-BOOTSTRAP",), running="1.4.0", series=("1.4",)),
    Case("the second series", "accepted", ("I-BOOTSTRAP",), running="1.5.0", series=("1.4", "1.5")),
    Case(
        "the second alone", "refused", ("E-SPAN", "I-BOOTSTRAP"), ("ringfence>=1.5",), "1.5.0", ("1.4", "1.5")
    ),
    # What the text uses.
    Case("an argument of 1.5", "refused", ("E-ARG",), text=taking("gradients", "parameters")),
    Case(
        "an argument of 1.5 with a default",
        "accepted",
        ("W-DEFAULT-ARG",),
        text=taking("gradients", "parameters=None"),
    ),
    Case("an argument of no series", "refused", ("E-ARG",), text=taking("grads", "step")),
    Case(
        "an argument to go in 1.8",
        "accepted",
        ("W-DEPRECATED",),
        text=taking("parameters", "loss").replace("gradient", "optimizer"),
    ),
    Case("a hook of 1.5", "refused", ("E-HOOK",), text=taking("losses").replace("gradient", "augment")),
    Case("a name of 1.5", "refused", ("E-NAME",), text=importing("from ringfence import connect")),
    Case(
        "a name of 1.5, its absence provided for",
        "accepted",
        text=importing("try:\n    from ringfence import connect\nexcept ImportError:\n    connect = None\n"),
    ),
    Case(
        "what is not public",
        "refused",
        ("E-NAME",),
        text=importing("from ringfence.hooks.types import Batch"),
    ),
    Case("an attribute of 1.5", "refused", ("E-ATTR",), text=returning("step.pass_index")),
    Case("an attribute of 1.5 with a default", "accepted", text=returning("getattr(step, 'pass_index', 0)")),
    Case("a role of no series", "refused", ("E-ROLE",), text=of_role("compressor")),
    # A role that came with 1.5: there is nothing before that a plugin of it could fit.
    Case("a role of 1.5", "accepted", ("I-BOOTSTRAP",), ("ringfence>=1.5",), text=of_role("probe")),
    Case("a role of 1.5 from 1.4 on", "refused", ("E-ROLE", "I-BOOTSTRAP"), text=of_role("probe")),
    Case(
        "a role of 1.5 from 1.6 on",
        "refused",
        ("E-SPAN", "I-BOOTSTRAP"),
        ("ringfence>=1.6",),
        text=of_role("probe"),
    ),
    Case(
        "a role of 1.5, whose record is lost",
        "refused",
        ("U-SERIES", "I-BOOTSTRAP"),
        ("ringfence>=1.5",),
        lost=("1.5",),
        text=of_role("probe"),
    ),
    Case("a role that went with 1.6", "refused", ("E-ROLE",), text=of_role("sampler")),
    Case(
        "a role of 1.5 on the core of 1.4",
        "refused",
        ("E-ROLE", "I-BOOTSTRAP"),
        running="1.4.9",
        series=FOUR[1:],
        text=of_role("probe"),
    ),
    Case("no backward", "refused", ("E-METHOD",), text=CLIP.replace("backward", "backwards")),
    Case("a computed attribute", "refused", ("U-ATTRIBUTES",), text=returning("getattr(step, self.name)")),
    Case("arguments behind a star", "refused", ("E-METHOD",), text=taking("*arguments")),
    Case("arguments behind two stars", "refused", ("E-METHOD",), text=taking("**arguments")),
    Case("an argument without a name", "refused", ("E-METHOD",), text=taking("gradients", "/", "step")),
    Case("nothing to do", "refused", ("E-METHOD",), text=f"{CLIP}\n    backward = passthrough\n"),
    Case(
        "a state to save only",
        "refused",
        ("E-METHOD",),
        text=f"{CLIP}\n    def state_dict(self): return {{}}",
    ),
    Case(
        "a state to load only",
        "refused",
        ("E-METHOD",),
        text=f"{CLIP}\n    def load_state_dict(self, s): ...",
    ),
    Case("no Python", "refused", ("U-SOURCE",), text="class Clip(:"),
    # Where the entry point leads.
    Case("to a module that is not there", "refused", ("U-SOURCE",), points="clip = acme_clap:Clip"),
    Case("to a class that is not there", "refused", ("U-SOURCE",), points="clip = acme_clip:Clap"),
    Case("a second plugin beside it", "accepted", points="clip = acme_clip:Clip\nclap = acme_clip:Clap"),
    Case("the core lost a record", "refused", ("U-SERIES",), lost=("1.5",)),
]


def test_the_table_is_long_enough_and_says_each_thing_once():
    assert len(CASES) >= 40
    assert len({case.says for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_the_verdict(case, tmp_path):
    install(tmp_path, requires=case.requires, text=case.text, points=case.points)
    plugin = found(tmp_path).find("clip")
    index = index_of(*case.series, yanked=case.yanked, lost=case.lost)

    verdict = judge(plugin, source_of(plugin), index, case.running)

    assert (verdict.decision, tuple(finding.rule for finding in verdict.findings)) == (
        case.decision,
        case.rules,
    )
    advised = [finding for finding in verdict.findings if finding.refuses]
    assert all(finding.advice for finding in advised), "a refusal says what to do"


# What no verdict is come to: it cannot be told which plugin is meant.


def test_two_distributions_with_a_plugin_of_one_name_are_told(tmp_path):
    install(tmp_path)
    install(tmp_path, name="other-clip", module="other_clip")

    with pytest.raises(
        JobError, match=r"'clip' is declared by .*acme-clip.*; uninstall all but one"
    ) as caught:
        found(tmp_path).find("clip")

    assert "other-clip" in str(caught.value)


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ("clip = acme_clip", "not as 'module:Class'"),
        ("clip = :Clip", "not as 'module:Class'"),
        ("a clip = acme_clip:Clip", "names have up to 64 letters"),
        ("clip = acme_clip:Clip\nclip = acme_clip:Clap", ""),
    ],
)
def test_an_entry_point_that_is_none_is_told_and_hides_nobody(tmp_path, points, says):
    install(tmp_path, points=points)
    install(tmp_path, name="other-clip", module="other_clip", points="other = other_clip:Clip")

    installed = found(tmp_path)

    assert "other" in installed.plugins
    assert "clip" not in installed.plugins
    told = [*installed.damaged, *installed.conflicts]
    assert told
    assert says in " ".join(told)
