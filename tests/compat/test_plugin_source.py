"""A plugin is read from its text: what is told, and what is left open."""

import ast
import sys
import textwrap
import tracemalloc

import pytest

from ringfence.compat.source import effort, module_files
from ringfence.compat.source.plugin_source import read_plugin


@pytest.fixture
def read(tmp_path):
    """Return a function that writes files of a package ``acme`` and reads its class ``Clip``."""

    def write_and_read(entry_text, qualname="Clip", module="acme", **files):
        package = tmp_path / "acme"
        package.mkdir(exist_ok=True)
        for name, text in {"__init__": entry_text, **files}.items():
            (package / f"{name}.py").write_text(textwrap.dedent(text))
        return read_plugin(module, qualname, [str(tmp_path)])

    return write_and_read


PLAIN = """
    from ringfence import passthrough

    class Clip:
        '''Clip gradients.'''

        role = "gradient"
        forward = passthrough

        def __init__(self, max_norm: float = 1.0, *, kind: str):
            raise SystemExit("nobody runs this")

        def backward(self, gradients, step):
            return gradients

    raise SystemExit("nobody imports this")
"""


def test_role_methods_options_and_docstring_are_read_without_running_anything(read, monkeypatch):
    monkeypatch.delitem(sys.modules, "acme", raising=False)
    source = read(PLAIN)

    assert source.role == "gradient"
    assert source.docstring == "Clip gradients."
    assert source.methods["forward"].passthrough
    assert source.methods["backward"].arguments == ("gradients", "step")
    assert source.methods["backward"].line == 13
    assert [(p.name, p.annotation_text, p.default_text, p.required) for p in source.parameters] == [
        ("max_norm", "float", "1.0", False),
        ("kind", "str", None, True),
    ]
    assert source.line == 4
    assert source.unresolved == ()
    assert "acme" not in sys.modules


@pytest.mark.parametrize(
    "entry",
    [
        "from .plugin import Clip",
        "from .plugin import Clip as Clip",
        "from acme.plugin import Clip",
        "from . import plugin\nClip = plugin.Clip",
        "import acme.plugin\nClip = acme.plugin.Clip",
        "from .middle import *\nfrom .middle import Other as Clip",
        "try:\n    from .plugin import Clip\nexcept ImportError:\n    raise",
    ],
)
def test_a_class_is_found_through_reexports(read, entry):
    source = read(entry, plugin=PLAIN, middle="from .plugin import Clip as Other")

    assert source.path is not None
    assert source.path.name == "plugin.py"
    assert source.role == "gradient"


def test_a_class_inside_a_class_is_found(read):
    source = read("class Outer:\n    class Clip:\n        role = 'monitor'", qualname="Outer.Clip")

    assert source.role == "monitor"


def test_members_come_from_bases_in_other_files_of_the_plugin(read):
    source = read(
        """
        from .base import Base
        class Clip(Base):
            def backward(self, gradients): ...
        """,
        base="""
        from ringfence import passthrough
        class Root:
            role = "gradient"
            def __init__(self, limit: int = 3): ...
        class Base(Root):
            forward = passthrough
            def backward(self, gradients, step): ...
        """,
    )

    assert source.role == "gradient"
    assert source.methods["backward"].arguments == ("gradients",)
    assert source.methods["forward"].passthrough
    assert [p.name for p in source.parameters] == ["limit"]
    assert source.unresolved == ()


def test_options_of_a_dataclass_are_its_fields(read):
    source = read("""
        from dataclasses import dataclass, field
        from typing import ClassVar
        from ringfence import passthrough
        @dataclass
        class Clip:
            role: ClassVar[str] = "gradient"
            max_norm: float
            names: list[str] = field(default_factory=list)
            hidden: int = field(default=0, init=False)
            forward = passthrough
            backward = passthrough
        """)

    assert [(p.name, p.required) for p in source.parameters] == [("max_norm", True), ("names", False)]
    assert source.role == "gradient"


def test_type_aliases_and_types_in_quotes_are_put_in(read):
    source = read(
        """
        from .kinds import Maybe
        class Clip:
            def __init__(self, kind: "Maybe" = None, other: int | Maybe = 1): ...
        """,
        kinds="""
        from typing import Literal
        Kind = Literal["a", "b"]
        Maybe = Kind | None
        """,
    )

    shown = [ast.unparse(p.annotation) for p in source.parameters]
    assert shown == ["Literal['a', 'b'] | None", "int | (Literal['a', 'b'] | None)"]


def test_attributes_are_followed_through_helpers_and_annotations(read):
    source = read(
        """
        from ringfence import LossTerm, StepInfo
        from .tools import scale
        class Clip:
            role = "gradient"
            def forward(self, batch, outputs, step):
                renamed = batch
                self._look(renamed)
                return LossTerm(value=scale(step), gradient=outputs)
            def _look(self, b):
                return b.targets
            def backward(self, gradients, step: StepInfo):
                step = 3
                return step.nothing
        """,
        tools="""
        def scale(s):
            if hasattr(s, "newer"):
                return s.newer
            return s.lr_factor + getattr(s, "newest", 0.0)
        """,
    )

    uses = {(u.argument or u.type_name, u.attribute): u.guarded for u in source.uses}
    assert uses == {
        ("batch", "targets"): False,
        ("LossTerm", "value"): False,
        ("LossTerm", "gradient"): False,
        ("step", "lr_factor"): False,
        ("step", "newer"): True,
        ("step", "newest"): True,
    }


def test_imports_of_ringfence_are_listed_with_lines(read):
    source = read("""
        import ringfence as rf
        from ringfence import Batch
        from ringfence.hooks.types import StepInfo
        try:
            from ringfence import Newer
        except ImportError:
            Newer = None
        class Clip:
            def forward(self, batch):
                return rf.LossScale(0.5)
        """)

    found = {(i.module, i.name, i.line, i.guarded) for i in source.imports}
    assert found == {
        ("ringfence", "Batch", 3, False),
        ("ringfence.hooks.types", "StepInfo", 4, False),
        ("ringfence", "Newer", 6, True),
        ("ringfence", "LossScale", 11, False),
    }


@pytest.mark.parametrize(
    ("text", "about", "reason"),
    [
        ("Clip = make()", "class", "no class written out"),
        ("import os", "class", "no class written out"),
        ("def Clip(): ...", "class", "no class written out"),
        ("class Clip(: ...", "class", "SyntaxError: "),
        ("x = " + "-" * 50_000 + "1\nclass Clip: ...", "class", "no Python source"),
        ("@register\nclass Clip: ...", "class", "@register may replace the class"),
        ("class Clip(metaclass=Meta): ...", "class", "metaclass Meta may change the class"),
        ("class Clip:\n    role = ROLE", "role", "not a string written out"),
        ("import torch\nclass Clip(torch.nn.Module):\n    role = 'x'", "arguments", "base torch.nn.Module"),
        ("class Clip(Mystery): ...", "role", "base Mystery"),
        ("class Clip:\n    @wrapped\n    def forward(self, batch): ...", "arguments", "@wrapped may change"),
        ("class Clip:\n    forward = build()", "arguments", "no method written out"),
        ("class Clip(Mystery):\n    role = 'x'", "options", "the constructor may come from base"),
        ("from ringfence import *\nclass Clip: ...", "names", "import *"),
        (
            "class Clip:\n    def forward(self, batch):\n        getattr(batch, self.name)",
            "attributes",
            "computed name",
        ),
    ],
)
def test_what_the_text_does_not_settle_is_said(read, text, about, reason):
    source = read(text)

    assert any(item.about == about and reason in item.reason for item in source.unresolved), source.unresolved


def test_a_module_that_is_not_there_is_said(tmp_path):
    source = read_plugin("acme.plugin", "Clip", [str(tmp_path)])

    assert source.path is None
    assert [item.reason for item in source.unresolved] == ["no source file of module acme.plugin was found"]


def test_a_circle_of_imports_ends(read):
    source = read("from .other import Clip", other="from . import Clip")

    assert [item.about for item in source.unresolved] == ["class"]


def test_a_lambda_or_a_function_beside_the_class_can_be_a_method(read):
    source = read("""
        def look(self, batch, step): return batch.targets
        class Clip:
            forward = look
            backward = lambda self, gradients: None
        """)

    assert source.methods["forward"].arguments == ("batch", "step")
    assert source.methods["backward"].arguments == ("gradients",)
    assert [(use.argument, use.attribute) for use in source.uses] == [("batch", "targets")]


def test_packages_mapped_to_another_folder_are_found(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "__init__.py").write_text("from .inner import Clip")
    (tmp_path / "code" / "inner.py").write_text("class Clip:\n    role = 'augment'")

    source = read_plugin("acme.plugins", "Clip", [], {"acme.plugins": str(tmp_path / "code")})

    assert source.role == "augment"


def test_doubtful_escapes_in_a_plugin_are_no_warning_of_ours(read):
    source = read("class Clip:\n    role = 'augment'\n    pattern = '\\d'")

    assert source.role == "augment"


@pytest.mark.parametrize("filling", ["a;", "#", "-"])
def test_a_file_that_is_too_long_is_not_parsed(read, monkeypatch, filling):
    monkeypatch.setattr(ast, "parse", pytest.fail)

    source = read(filling * (1_900_000 // len(filling)) + "\nclass Clip: ...\n")

    (open_question,) = source.unresolved
    assert open_question.reason == "it is longer than 200000 bytes"


#: Texts that take much memory for their length once they are parsed.
DENSE = ["a;", "1\n", "*a,;", "[];", "a();", "a[:];", "a,", "a<", "{a:a};", "f'{a}';", "if a:a\n"]


@pytest.mark.parametrize("text", DENSE)
def test_what_parsing_takes_is_bounded_by_words_signs_and_lines(tmp_path, text):
    many = text * (8_000 // len(text))
    many = f"({many}1)" if text in ("a,", "a<") else many
    (tmp_path / "dense.py").write_text(many)
    found = module_files.Modules(["dense"], [str(tmp_path)])
    tracemalloc.start()
    try:
        assert found.find("dense") is not None, found.broken
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1000 * module_files._pieces(many.encode()) + 500_000


def test_more_words_and_signs_than_are_read_are_told(read, monkeypatch):
    monkeypatch.setattr(module_files, "MAX_PIECES", 40_000)
    parsed = []
    parse = ast.parse
    monkeypatch.setattr(ast, "parse", lambda text, **more: parsed.append(len(text)) or parse(text, **more))
    files = {f"m{n}": "a;" * 4_000 for n in range(30)}

    source = read(f"from . import {', '.join(files)}\nclass Clip:\n    role = 'gradient'\n", **files)

    (open_question,) = source.unresolved
    assert open_question.about == "names"
    assert open_question.reason.startswith("the files of its own that it imports hold more than 40000 words")
    assert sum(parsed) < 50_000


def test_a_class_behind_more_words_and_signs_than_are_read_is_told(read, monkeypatch):
    monkeypatch.setattr(module_files, "MAX_PIECES", 1000)

    source = read("class Clip:\n    role = 'gradient'\n" + "[];" * 500)

    (open_question,) = source.unresolved
    assert open_question.about == "class"
    assert "more than 1000 words and signs" in open_question.reason


@pytest.mark.parametrize("encoding", ["utf-7", "punycode", "utf-16"])
def test_text_in_an_encoding_of_many_signs_a_byte_is_not_decoded(read, encoding):
    source = read(f"# coding: {encoding}\nclass Clip:\n    role = 'gradient'\n")

    (open_question,) = source.unresolved
    assert f"its encoding is {encoding}; write it in UTF-8" in open_question.reason


#: Texts in which to follow names takes the square of their length, or more.
SLOW = {
    "an attribute in a function that is read often": "    def backward(self, gradients):\n        "
    + "".join(f"f(x=gradients, a{n}=gradients); " for n in range(400))
    + "\ndef f(x, "
    + ", ".join(f"a{n}=0" for n in range(400))
    + "):\n    "
    + "x.a; " * 10_000,
    "a condition in conditions": f"    x = {'(a if ' * 60}[{'hasattr(), ' * 3_000}]{' else a)' * 60}\n",
    "a type in brackets": f"    def __init__(self, a: b[{'1, ' * 20_000}]{'[0]' * 200}): ...\n",
    "functions and names of modules": "    x = 0\n"
    f"import {', '.join(f'ringfence as r{n}' for n in range(4000))}\n" + "lambda: a; " * 4000,
}


@pytest.mark.parametrize("slow", SLOW)
def test_what_takes_too_long_to_follow_is_told(read, monkeypatch, slow):
    monkeypatch.setattr(effort, "MAX_SECONDS", 0.1)

    source = read(f"class Clip:\n    role = 'gradient'\n    def forward(self): ...\n{SLOW[slow]}")

    (open_question,) = source.unresolved
    assert open_question.about == "class"
    assert open_question.reason == "to follow the names in it takes more than 0.1 s of processor time"


def test_an_import_of_many_names_is_followed_at_once(read):
    """One name of it stands in every line: a look through all names for each would take a minute."""
    names = [f"a{n}" for n in range(15_000)]
    text = f"import {', '.join(names)}\n{names[-1]}.b;" + f"{names[-1]}();" * 8000

    source = read(f"{text}\nclass Clip:\n    role = 'gradient'\n")

    assert source.unresolved == ()


def test_more_options_than_are_read_are_left_to_the_sandbox(read):
    options = ", ".join(f"a{n}: int = 0" for n in range(300))

    source = read(f"class Clip:\n    role = 'gradient'\n    def __init__(self, {options}): ...\n")

    (open_question,) = source.unresolved
    assert (open_question.about, open_question.reason) == ("options", "it has 300 options; 200 are read")
    assert len(source.parameters) == 200
    assert source.takes_any_option


@pytest.mark.parametrize(
    ("parameter", "says"),
    [
        (f"a: '{'-' * 60_000}1'", "nested too deeply"),
        (f"a: '{'a.' * 30_000}a'", "nested too deeply"),
        (f"a=0x{'f' * 5000}", "cannot be read: Exceeds the limit"),
    ],
    ids=["signs", "dots", "digits"],
)
def test_what_python_cannot_parse_or_write_out_is_told(read, parameter, says):
    source = read(f"class Clip:\n    role = 'gradient'\n    def __init__(self, {parameter}): ...\n")

    (open_question,) = source.unresolved
    assert (source.path, open_question.about) == (None, "class")
    assert says in open_question.reason


def test_more_files_than_are_read_are_told(read):
    """The last of them could use anything."""
    files = {f"m{n}": "" for n in range(600)}
    files["m0"] = "from . import deep"

    source = read(f"from . import {', '.join(files)}\nclass Clip:\n    role = 'gradient'\n", deep="", **files)

    (open_question,) = source.unresolved
    assert open_question.about == "names"
    assert open_question.reason == "it imports more than 500 files of its own; those beyond were not read"


def test_as_many_files_as_are_read_and_one_behind_them_are_told(read):
    files = {f"m{n}": "" for n in range(499)}
    files["m0"] = "from . import deep"

    source = read(f"from . import {', '.join(files)}\nclass Clip:\n    role = 'gradient'\n", deep="", **files)

    (open_question,) = source.unresolved
    assert "500 or more files of its own; those beyond were not read" in open_question.reason


def test_more_text_than_is_read_is_told(read, monkeypatch):
    monkeypatch.setattr("ringfence.compat.source.module_files.MAX_TOTAL_BYTES", 1000)
    text = "from . import one, two\nclass Clip:\n    role = 'gradient'\n"

    source = read(text, one="#" * 2000, two="x = 1")

    (open_question,) = source.unresolved
    assert open_question.about == "names"
    assert "more than 1000 bytes" in open_question.reason


def test_bases_that_lead_to_the_same_ones_in_millions_of_ways_are_each_read_once(read):
    levels = "".join(
        f"class {name}{level}({', '.join(f'{base}{level - 1}' for base in 'ABC')}): pass\n"
        for level in range(1, 19)
        for name in "ABC"
    )
    roots = "class A0: role = 'gradient'\nclass B0: role = 'monitor'\nclass C0: pass\n"

    source = read(f"{roots}{levels}class Clip(A18, B18, C18): pass\n")

    assert source.role == "gradient"
    assert [item.about for item in source.unresolved] == []


def test_a_member_comes_from_the_first_base_in_the_order_of_python(read):
    text = """
        class Root: role = 'root'
        class Left(Root): pass
        class Right(Root): role = 'right'
        class Clip(Left, Right): pass
        """
    inner: dict[str, type] = {}
    exec(textwrap.dedent(text), inner)  # noqa: S102 - the reference

    assert read(text).role == inner["Clip"].role == "right"


def test_a_class_that_is_written_as_its_own_base_is_told(read):
    source = read("class Clip:\n    role = 'gradient'\nclass Clip(Clip): pass\n")

    assert [(item.about, item.line) for item in source.unresolved] == [("class", 3)]


def test_aliases_that_stand_for_millions_of_types_stay_as_written(read):
    layers = "".join(f"T{n} = {' | '.join([f'T{n + 1}'] * 30)}\n" for n in range(6))

    source = read(f"{layers}T6 = int | str\nclass Clip:\n    def __init__(self, a: T0, b: T6): ...\n")

    assert [parameter.annotation_text for parameter in source.parameters] == ["T0", "T6"]
    assert sum(1 for _ in ast.walk(source.parameters[0].annotation)) < 200_000
