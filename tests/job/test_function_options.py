"""Options of plugins, checked against constructors that are read as text and never run."""

import ast
import math
import re
from pathlib import Path
from typing import Any

import pytest

from ringfence.compat.source.plugin_source import Parameter
from ringfence.job.annotation_types import option_type
from ringfence.job.plugin_options import CheckedOptions, check_plugin_options
from ringfence.job.problems import dotted_path


def parameters(text: str) -> list[Parameter]:
    """Read the parameters of ``def f(<text>)`` as the source reader would give them."""
    function = ast.parse(f"def f({text}): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args.args
    defaults = [None] * (len(arguments) - len(function.args.defaults)) + function.args.defaults
    return [
        Parameter(
            argument.arg,
            argument.annotation,
            "" if argument.annotation is None else ast.unparse(argument.annotation),
            None if default is None else ast.unparse(default),
            default is None,
            1,
        )
        for argument, default in zip(arguments, defaults, strict=True)
    ]


def check(signature: str, takes_any: bool = False, **options: Any) -> CheckedOptions:
    return check_plugin_options(options, parameters(signature), takes_any=takes_any)


def faults(signature: str, **options: Any) -> list[str]:
    return [f"{dotted_path(p.path)}: {p.message}" for p in check(signature, **options).problems]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("float", 0.1),
        ("float", 1),
        ("int", 3),
        ("bool", True),
        ("str", "text"),
        ("pathlib.Path", "/data"),
        ("float | None", None),
        ("Optional[int]", None),
        ("t.Optional[int]", 3),
        ("Union[int, str]", "a"),
        ("Literal['a', 'b', 3, -1]", -1),
        ("list[float]", [1, 0.5]),
        ("Sequence[Mapping[str, Any]]", [{"a": [1]}]),
        ("tuple[float, float]", [0.9, 0.99]),
        ("tuple[float, ...]", []),
        ("dict[str, int]", {"a": 1}),
        ("Annotated[float, Ge(0), Le(1)]", 1),
        ("Annotated[float, Interval(gt=0, le=1 / 2)]", 0.5),
        ("Annotated[int, Field(ge=1, description='how many')]", 1),
        ("Annotated[list[int], MinLen(1), 'at least one']", [1]),
        ("'float | None'", None),
        ("object", [1, {"a": None}]),
    ],
)
def test_fitting_value_is_accepted(annotation, value):
    checked = check(f"x: {annotation}", x=value)
    assert not checked.problems
    assert not checked.untold


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        ("float", "fast", "x: expected a number, got the text 'fast'"),
        ("float", "1e-3", "x: expected a number, got the text '1e-3'"),
        ("float", True, "x: expected a number, got true"),
        ("float", None, "x: expected a number, got nothing (null)"),
        ("int", 1.0, "x: expected a whole number, got 1.0"),
        ("int", True, "x: expected a whole number, got true"),
        ("bool", 1, "x: expected true or false, got 1"),
        ("bool", "no", "x: expected true or false, got the text 'no'"),
        ("str", 1, "x: expected text, got 1"),
        ("float | tuple[float, float]", "a", "x: expected float | tuple[float, float], got the text 'a'"),
        ("tuple[float, float]", [0.9], "x: expected tuple[float, float], got the list [0.9]"),
        ("tuple[float, ...]", [0.9, "a"], "x[1]: expected a number, got the text 'a'"),
        ("list[dict[str, float]]", [{"a": "b"}], "x[0].a: expected a number, got the text 'b'"),
        ("list[int]", 3, "x: expected a list, got 3"),
        ("dict[str, int]", [1], "x: expected a mapping (key: value), got the list [1]"),
        (
            "Literal['norm', 'value']",
            "nrom",
            "x: expected 'norm' or 'value', got the text 'nrom'; did you mean 'norm'?",
        ),
        ("Annotated[float, Ge(0), Le(1)]", 2, "x: 2 is out of range; it must be at most 1"),
        ("Annotated[float, Gt(-1e-3)]", -1, "x: -1 is out of range; it must be more than -0.001"),
        ("Annotated[float, Field(gt=0)] | None", -1, "x: -1 is out of range; it must be more than 0"),
        ("Annotated[list[int], MinLen(1)]", [], "x: list should have at least 1 item"),
    ],
)
def test_wrong_value_is_named_with_what_is_right(annotation, value, expected):
    (fault,) = faults(f"x: {annotation}", x=value)
    assert fault.startswith(expected)


@pytest.mark.parametrize(
    "signature", ["x=False", "x: Any = True", "x: Unknown = False", "x: bool", "x: bool | None"]
)
@pytest.mark.parametrize("word", ["no", "off", "yes", "true"])
def test_no_text_switches_an_option_on(signature, word):
    (fault,) = faults(signature, x=word)
    assert re.match(rf"x: expected (true or false|bool \| None), got the text '{word}'", fault)


@pytest.mark.parametrize(
    "signature", ["x='no'", "x: bool | str = False", "x: Literal[False, 'auto'] = False"]
)
def test_text_fits_where_there_may_be_text(signature):
    assert not check(signature, x="auto").problems


@pytest.mark.parametrize(
    ("signature", "value", "path"),
    [
        ("x: float", math.inf, "x"),
        ("x", -math.inf, "x"),
        ("x: list[float]", [1, math.inf], "x[1]"),
        ("x: dict[str, Any]", {"betas": [0.9, math.inf]}, "x.betas[1]"),
    ],
)
def test_infinity_is_refused_where_nothing_speaks_of_it(signature, value, path):
    assert faults(signature, x=value) == [f"{path}: expected a finite number, got infinity"]


@pytest.mark.parametrize("signature", ["x: Annotated[float, Le(math.inf)]", "x: float = float('inf')"])
def test_infinity_fits_where_bound_or_default_names_it(signature):
    assert not check(signature, x=math.inf).problems


def test_unknown_option_names_the_nearest():
    assert faults("max_norm: float = 1.0", max_nrom=1.0) == [
        "max_nrom: unknown option; did you mean 'max_norm'?"
    ]


def test_missing_option_is_named_with_its_type():
    assert faults("ops: list[str], seed: int = 0") == ["ops: is missing; the plugin needs it (list[str])"]


def test_all_faults_are_found():
    assert len(faults("a: int, b: float = 1.0, c: str = ''", b="x", c=1, d=2)) == 4


def test_null_fits_where_it_is_the_default():
    assert not check("x: int = None", x=None).problems


@pytest.mark.parametrize(
    "annotation", ["Foo", "Foo | int", "list[Foo]", "Annotated[int, Ge(LIMIT)]", "a.b[c]"]
)
def test_what_the_text_cannot_tell_is_left_for_the_sandbox(annotation):
    checked = check(f"x: {annotation}", x=[3] if annotation.startswith("list") else 3)
    assert not checked.problems
    assert "only the plugin knows" in checked.untold["x"]


def test_option_without_annotation_is_untold():
    assert "x" in check("x", x=1).untold


def test_part_that_can_be_told_is_checked_beside_one_that_cannot():
    (problem,) = check("x: Annotated[int, Ge(LIMIT)]", x="a").problems
    assert "a whole number" in problem.message


def test_any_option_of_a_constructor_with_kwargs_is_untold():
    checked = check("lr: float = 1.0", takes_any=True, other=1)
    assert not checked.problems
    assert "other" in checked.untold


def test_bound_that_does_not_fit_its_type_is_untold():
    checked = check("x: Annotated[str, Ge(0)]", x="a")
    assert not checked.problems
    assert "x" in checked.untold


@pytest.mark.parametrize(
    "annotation",
    ["__import__('os').system('true')", "open('x')", "Annotated[int, Ge(__import__('os'))]", "9**9**9 | int"],
)
def test_annotation_is_never_evaluated(annotation):
    assert option_type(ast.parse(annotation, mode="eval").body).untold


def test_string_inside_string_ends():
    text = "int"
    for _ in range(6):
        text = repr(text)
    assert option_type(ast.parse(text, mode="eval").body).type is not None


def types_of_the_page() -> list[str]:
    page = (Path(__file__).parents[2] / "docs" / "plugin-template.md").read_text()
    table = page.partition("## Which types of options are checked\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \| ", table, re.MULTILINE)
    return [annotation.replace("\\|", "|") for row in rows for annotation in re.findall("`([^`]+)`", row)]


@pytest.mark.parametrize("annotation", types_of_the_page())
def test_each_type_that_the_page_says_is_checked_is(annotation: str) -> None:
    assert option_type(ast.parse(annotation, mode="eval").body).untold == ()
    assert check(f"x: {annotation}", x=object()).problems


def test_the_page_names_types() -> None:
    assert len(types_of_the_page()) >= 15


def test_an_enumeration_is_not_checked_as_the_page_says() -> None:
    checked = check("colour: Colour", colour="nonsense")

    assert checked.problems == []
    assert list(checked.untold) == ["colour"]
