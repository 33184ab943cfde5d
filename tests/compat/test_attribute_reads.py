"""What the text shows of a use that an older series lacks, however it is written; and what is none.

Series 1.4 lacks the name ``connect`` and the attribute ``pass_index`` of a step (``series.py``).
"""

import textwrap
import time

import pytest

from ringfence.discovery.catalog import judge, source_of

from .series import RUNNING, found, index_of, install

METHOD = """\
class Clip:
    role = "gradient"
    forward = passthrough

    def backward(self, gradients, step):
{body}

"""


def written(body, before="", after=""):
    head = f"from ringfence import passthrough\n{textwrap.dedent(before)}\n"
    return head + METHOD.format(body=textwrap.indent(textwrap.dedent(body), " " * 8)) + textwrap.dedent(after)


@pytest.fixture
def verdict(tmp_path):
    def of(text, **others):
        install(tmp_path, text=text, points="clip = acme_clip.plugin:Clip")
        (tmp_path / "acme_clip.py").unlink()
        package = tmp_path / "acme_clip"
        for name, more in {"__init__": "", "plugin": text, **others}.items():
            path = package.joinpath(*name.split(".")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(more))
        plugin = found(tmp_path).plugins["clip"]
        return judge(plugin, source_of(plugin), index_of("1.4", "1.5", "1.6"), RUNNING)

    return of


def rules(verdict):
    return [finding.rule for finding in verdict.findings]


USES = {
    "a module below": ("return None", "import ringfence.hooks.connect", "E-NAME"),
    "a module below, renamed": ("return None", "import ringfence.hooks.connect as c", "E-NAME"),
    "another name": ("return x.connect('h', 1)", "import ringfence as rf\nx = rf", "E-NAME"),
    "a walrus": ("return (r := ringfence).connect", "import ringfence", "E-NAME"),
    "getattr": ("return getattr(ringfence, 'connect')", "import ringfence", "E-NAME"),
    "import_module": ("return import_module('ringfence').connect", "from importlib import *", "E-NAME"),
    "not TYPE_CHECKING": (
        "if not TYPE_CHECKING:\n    from ringfence import connect",
        "from typing import TYPE_CHECKING",
        "E-NAME",
    ),
    "raised again": (
        "return None",
        "try:\n    from ringfence import connect\nexcept ImportError:\n    raise",
        "E-NAME",
    ),
    "the wrong error": (
        "return None",
        "import ringfence\ntry:\n    c = ringfence.connect\nexcept ImportError:\n    c = None",
        "E-NAME",
    ),
    "a computed name": ("return getattr(ringfence, self.name)", "import ringfence", "U-NAMES"),
    "vars": ("return vars(ringfence)['connect']", "import ringfence", "U-NAMES"),
    "handed on": ("return use(ringfence)", "import ringfence\nfrom other import use", "U-NAMES"),
    "imported and handed on": ("return use(__import__('ringfence'))", "from other import use", "U-NAMES"),
    "an annotated variable": ("s: object = step\nreturn s.pass_index", "", "E-ATTR"),
    "a walrus of an argument": ("return (s := step).pass_index", "", "E-ATTR"),
    "either": ("return (step if gradients else None).pass_index", "", "E-ATTR"),
    "a comprehension": ("return [step.pass_index for _ in gradients]", "", "E-ATTR"),
    "behind a comprehension": ("[step for step in self.all]\nreturn step.pass_index", "", "E-ATTR"),
    "the wrong branch": (
        "return 0 if hasattr(step, 'epoch') else step.pass_index",
        "",
        "E-ATTR",
    ),
}
GUARDS = {
    "any error": "try:\n    from ringfence import connect\nexcept Exception:\n    connect = None",
    "all errors": "try:\n    from ringfence import connect\nexcept:\n    connect = None",
    "a group": "try:\n    from ringfence import connect\nexcept* ImportError:\n    connect = None",
    "suppressed": "import contextlib as c\nwith c.suppress(ImportError):\n    from ringfence import connect",
    "an attribute": "import ringfence\ntry:\n    c = ringfence.connect\nexcept AttributeError:\n    c = None",
    "hasattr": "import ringfence\nif hasattr(ringfence, 'connect'):\n    c = ringfence.connect",
    "either": "import ringfence\nc = ringfence.connect if hasattr(ringfence, 'connect') else None",
    "the version": "import ringfence\nif ringfence.__version__ >= '1.5':\n    c = ringfence.connect",
    "a default": "import ringfence\nc = getattr(ringfence, 'connect', None)",
    "types only": "import typing\nif typing.TYPE_CHECKING:\n    from ringfence import connect",
    "none": "try:\n    import ringfence\nexcept ImportError:\n    ringfence = None\nok = ringfence is None",
}
NO_USES = {
    "comprehension": "return [step.pass_index for step in self.stages]",
    "dictionary": "return {k: step.pass_index for k, step in self.stages}",
    "generator": "return sum(step.pass_index for step in self.stages)",
    "with": "with self.open() as step:\n    return step.pass_index",
    "annotated": "step: str = 'a'\nreturn step.pass_index",
    "except": "try:\n    pass\nexcept ValueError as step:\n    return step.pass_index",
    "match": "match self.all:\n    case step:\n        return step.pass_index",
    "starred": "first, *step = self.all\nreturn step.pass_index",
    "import": "from elsewhere import pages as step\nreturn step.pass_index",
    "coroutine": "async def f(step):\n    return step.pass_index",
    "keyword": "f = lambda **step: step.pass_index",
    "isinstance": "if isinstance(step, dict):\n    return step.pass_index",
    "hidden helper": "def help(a):\n    return 1\nreturn help(step)",
    "caught": "try:\n    return step.pass_index\nexcept AttributeError:\n    return 0",
    "asked by the caller": "return help(step) if hasattr(step, 'pass_index') else 0",
    "a parameter": "f = lambda ringfence: ringfence.connect",
}


@pytest.mark.parametrize("case", USES)
def test_a_use_is_seen(verdict, case):
    body, before, rule = USES[case]

    judged = verdict(written(body, before))

    assert judged.decision == "refused"
    assert rules(judged) == [rule]


@pytest.mark.parametrize("case", GUARDS)
def test_a_guarded_use_is_none(verdict, case):
    assert verdict(written("return None", GUARDS[case])).decision == "accepted"


@pytest.mark.parametrize("case", NO_USES)
def test_a_name_that_stands_for_something_else_is_none(verdict, case):
    text = written(NO_USES[case], "import ringfence", "def help(a):\n    return a.pass_index\n")

    judged = verdict(text)

    assert judged.decision == "accepted", judged.message()


def test_the_module_is_followed_through_another_file(verdict):
    judged = verdict(written("return rf.connect", "from . import rf"), __init__="import ringfence as rf")

    assert rules(judged) == ["E-NAME"]


def test_what_a_star_brings_in_is_read(verdict):
    judged = verdict(
        written("return None", "from .sub import *"),
        **{"sub.__init__": "__all__ = ['tool']", "sub.tool": "from ringfence import connect"},
    )

    assert "E-NAME" in rules(judged)
    assert any(finding.where.endswith("sub/tool.py:1") for finding in judged.findings)


BAD_SYNTAX = written("return None").replace("step):", "step)")


@pytest.mark.parametrize(
    ("texts", "where", "says", "advice"),
    [
        ((BAD_SYNTAX, {}), "acme_clip/plugin.py:7", "SyntaxError: expected ':'", "mend that file"),
        (
            ("from .own import Clip", {"own": BAD_SYNTAX}),
            "acme_clip/own.py:7",
            "SyntaxError: expected ':'",
            "mend that file",
        ),
        (
            ("Clap = 1", {}),
            "acme_clip/plugin.py",
            "'Clip' is no class written out",
            "correct the entry point, or write 'class Clip' out there",
        ),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place_and_the_way_out(verdict, texts, where, says, advice):
    text, others = texts

    judged = verdict(text, **others)

    (finding,) = judged.findings
    assert (finding.rule, finding.advice) == ("U-SOURCE", advice)
    assert finding.where.endswith(where)
    assert says in finding.text


def test_a_long_chain_of_helpers_is_followed_to_its_end(verdict):
    helpers = [f"def help{n}(s):\n    return help{n + 1}(s)\n" for n in range(600)]

    judged = verdict(written("help0(step)", after="\n".join([*helpers, "def help600(s):\n    s.pass_index"])))

    assert rules(judged) == ["E-ATTR"]


def test_helpers_that_call_each_other_in_too_many_ways_are_not_told_and_cost_little(verdict):
    names = [f"a{n}" for n in range(8)]
    orders = [names[i:] + names[:i] for i in range(8)] + [[*names[1::-1], *names[2:]]]
    helpers = [
        f"def help{n}({', '.join(names)}):\n"
        + "".join(f"    help{n + 1}({', '.join(order)})\n" for order in orders)
        for n in range(99)
    ]
    began = time.thread_time()

    judged = verdict(written("help0(gradients, step, *[0] * 6)", after="\n".join(helpers)))

    assert rules(judged) == ["U-ATTRIBUTES"]
    assert "call each other in more than 2000 ways" in judged.message()
    assert time.thread_time() - began < 10
