"""Options of plugins are told in words of a job."""

import ast

import pytest

from ringfence.cli.type_words import default_words, type_words
from ringfence.compat.source.plugin_source import Parameter


def option(annotation="", default=None):
    parsed = ast.parse(annotation, mode="eval").body if annotation else None
    return Parameter("x", parsed, annotation, default, required=default is None, line=1)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ("", "not said"),
        ("int", "whole number"),
        ("Annotated[float, Gt(0)] | None", "number > 0 or null"),
        ("Annotated[int, Ge(0), Le(512)]", "whole number ≥ 0, ≤ 512"),
        ("typing.Optional[bool]", "true or false or null"),
        ("list[str] | Literal['auto', 2, None]", "list of text or auto or 2 or null"),
        ("Sequence[dict[str, Any]]", "list of mapping"),
        ("dict[str, float]", "mapping to number"),
        ("tuple[float, float]", "list of number, number"),
        ("tuple[int, ...]", "list of whole number"),
        ("Union[int, str]", "whole number or text"),
        ("Path | None", "Path | None"),
        ("Literal[other]", "Literal[other]"),
    ],
)
def test_a_type_is_told_in_words_or_as_it_was_written(annotation, words):
    assert type_words(option(annotation)) == words


@pytest.mark.parametrize(
    ("default", "words"),
    [
        (None, "(needed)"),
        ("None", "null"),
        ("True", "true"),
        ("'auto'", "auto"),
        ("'a b'", '"a b"'),
        ("1e-3", "0.001"),
        ("(1, 2)", "[1, 2]"),
        ("Path()", "Path()"),
        ("{1}", "{1}"),
    ],
)
def test_a_default_is_told_as_yaml(default, words):
    assert default_words(option("int", default)) == words
