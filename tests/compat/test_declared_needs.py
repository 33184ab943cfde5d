"""What a plugin says it needs is read from its text, literals only, and filled in from its options."""

import textwrap

import pytest

from ringfence.compat.source.declared_needs import fill
from ringfence.compat.source.plugin_source import read_plugin
from ringfence.compat.version_range import Candidate, check
from ringfence.hooks.permissions import Need, Permissions, covers, grant_line
from ringfence.hooks.series import Index
from ringfence.version import __version__

PLUGIN = """
from ringfence import passthrough

WHERE = "/models"

class Base:
    needs = {{"read": {{"/base": "from the base"}}}}

class Plugin({base}):
    role = "gradient"
    forward = passthrough
    {needs}

    def __init__(self, teacher: str | None = None, port: int = 443): ...

    def backward(self, gradients, step): ...
"""


@pytest.fixture
def read(tmp_path):
    """Return a function that reads a plugin whose class has the given line."""

    def write_and_read(needs, base="object"):
        text = PLUGIN.format(needs=textwrap.dedent(needs).strip(), base=base)
        (tmp_path / "acme.py").write_text(text)
        return read_plugin("acme", "Plugin", [str(tmp_path)])

    return write_and_read


def judged(source):
    candidate = Candidate("acme", "acme", "1", (f"ringfence>={Index.read().series[0].name}",))
    verdict = check(candidate, source, Index.read(), __version__)
    return verdict.decision, [finding for finding in verdict.findings if finding.refuses]


def test_needs_are_read_with_kind_what_and_reason(read):
    source = read('needs = {"read": {"{teacher}": "the teacher"}, "connect": {"x.org:{port}": "posts"}}')

    assert [(n.kind, n.what, n.reason) for n in source.needs] == [
        ("read", "{teacher}", "the teacher"),
        ("connect", "x.org:{port}", "posts"),
    ]
    assert source.needs[0].line == 12
    assert judged(source) == ("accepted", [])


def test_a_plugin_without_needs_has_none(read):
    assert read("pass").needs == ()


def test_needs_of_its_own_base_count(read):
    assert [need.what for need in read("pass", base="Base").needs] == ["/base"]


def test_a_base_from_elsewhere_states_nothing(read):
    source = read("pass", base="__import__('torch').nn.Module")
    assert source.needs == ()
    assert not [item for item in source.unresolved if item.about == "needs"]


def test_an_annotated_class_variable_is_read(read):
    assert read('needs: dict[str, dict[str, str]] = {"write": {"/out": "scores"}}').needs[0].kind == "write"


@pytest.mark.parametrize(
    "written",
    ['needs = {"read": {WHERE: "weights"}}', "needs = dict()", "needs = load()", "needs = lambda: {}"],
)
def test_needs_that_are_no_literal_are_refused_as_not_to_be_told(read, written):
    decision, findings = judged(read(written))

    assert decision == "refused"
    assert [finding.rule for finding in findings] == ["U-NEEDS"]
    assert "acme.py:12" in str(findings[0])


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('needs = ["/data"]', "no mapping"),
        ('needs = {"reed": {"/data": "x"}}', "the kind 'reed'"),
        ('needs = {1: {"/data": "x"}}', "the kind 1"),
        ('needs = {"read": ["/data"]}', "needs['read'] is no mapping"),
        ('needs = {"read": {"/data": ""}}', "'/data' has no reason"),
        ('needs = {"read": {"/data": "  "}}', "'/data' has no reason"),
        ('needs = {"read": {"/data": 3}}', "'/data' has no reason"),
        ('needs = {"read": {"": "why"}}', "no text of one line"),
        ('needs = {"read": {"/a\\nb": "why"}}', "no text of one line"),
        ('needs = {"read": {3: "why"}}', "no text of one line"),
        ('needs = {"read": {"/data": "\\x1b[2J"}}', "'/data' has no reason"),
        ('needs = {"read": {"{student}": "why"}}', "'student', which is no option"),
        (f'needs = {{"read": {{{", ".join(f"{str(n)!r}: {str(n)!r}" for n in range(40))}}}}}', "40 entries"),
    ],
)
def test_needs_that_make_no_sense_are_refused_with_their_line(read, written, said):
    decision, findings = judged(read(written))

    assert decision == "refused"
    assert [finding.rule for finding in findings] == ["E-NEEDS"]
    assert said in findings[0].text
    assert findings[0].line == 12
    assert findings[0].advice


@pytest.mark.parametrize(
    ("what", "values", "filled"),
    [
        ("/data", {}, "/data"),
        ("{teacher}", {"teacher": "/m/t.pt"}, "/m/t.pt"),
        ("{host}:{port}", {"host": "x", "port": 80}, "x:80"),
        ("{teacher}", {"teacher": None}, None),
        ("{teacher}", {"teacher": ""}, None),
        ("{teacher}", {}, None),
        ("{teacher}", {"teacher": "{port}", "port": 1}, "{port}"),
    ],
)
def test_options_are_put_in_once_and_an_unset_one_needs_nothing(what, values, filled):
    assert fill(what, values) == filled


@pytest.mark.parametrize("value", [True, 1.5, ["/a"], {"a": 1}])
def test_an_option_that_is_no_text_cannot_name_a_need(value):
    with pytest.raises(ValueError, match="option 'teacher' is neither text"):
        fill("{teacher}", {"teacher": value})


@pytest.mark.parametrize(
    ("kind", "granted", "need", "covered"),
    [
        ("read", "/data", Need("read", "/data", ""), True),
        ("read", "/data", Need("read", "/data/x/y", ""), True),
        ("read", "/data", Need("read", "/database", ""), False),
        ("read", "/data/x", Need("read", "/data", ""), False),
        ("read", "/data", Need("write", "/data", ""), False),
        ("write", "/data", Need("read", "/data/x", ""), True),
        ("connect", "x:1", Need("connect", "x:1", ""), True),
        ("connect", "x:1", Need("connect", "x:12", ""), False),
        ("read", "x:1", Need("connect", "x:1", ""), False),
    ],
)
def test_a_grant_covers_what_lies_in_it_and_no_more(kind, granted, need, covered):
    assert covers(kind, granted, need) is covered


@pytest.mark.parametrize(
    ("granted", "line"),
    [
        (["/data"], "read: [/data]"),
        (["/a", "/a", "./b"], "read: [/a, ./b]"),
        (["/with space", "/comma,", "/hash#"], 'read: ["/with space", "/comma,", "/hash#"]'),
        (["[::1]:80", "~", "1:2"], 'read: ["[::1]:80", "~", "1:2"]'),
    ],
)
def test_the_line_to_add_reads_back_as_it_was_meant(granted, line):
    from ringfence.job.yaml_document import parse_yaml

    assert grant_line("read", granted) == line
    assert parse_yaml(line, "line").value == {"read": list(dict.fromkeys(granted))}


def test_a_grant_that_was_not_asked_for_is_shown_as_such():
    from ringfence.hooks.permissions import GrantedPath, Target

    permissions = Permissions(
        (Need("read", "/data/x", "the teacher"),),
        (GrantedPath("/data", 1, 2, write=False), GrantedPath("/out", 1, 3, write=True)),
        (Target("::1", 80),),
    )

    assert list(permissions.lines()) == [
        "may read /data (the teacher)",
        "may write to /out (it did not ask for this)",
        "may connect to [::1]:80 (it did not ask for this)",
    ]
    assert permissions.to_dict() == {
        "needs": {"read": {"/data/x": "the teacher"}},
        "granted": {"read": ["/data"], "write": ["/out"], "connect": ["[::1]:80"]},
    }
