"""However much a plugin prints, what is kept of it is bounded by lines and by characters."""

import pytest

from ringfence.plugins.printed_output import MAX_CHARACTERS, MAX_LINES, Output


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ([["a"], ["b"]], 2),
        ([["a"] * MAX_LINES], MAX_LINES),
        ([["a"] * (MAX_LINES + 1)], MAX_LINES),
        ([["a"]] * (MAX_LINES + 5), MAX_LINES),
        ([["a" * 500] * 9], MAX_CHARACTERS // 500),
        ([["a" * (MAX_CHARACTERS + 1)], ["a"]], 2),
    ],
)
def test_the_first_lines_are_kept_and_all_are_counted(lines, shown):
    output = Output()
    for each in lines:
        output.add(each, len(each))

    count = sum(map(len, lines))
    assert (len(output.shown), output.count) == (shown, count)
    assert output.is_cut == (shown < count)
    assert sum(map(len, output.shown)) <= MAX_CHARACTERS


def test_of_a_line_the_beginning_is_shown():
    output = Output()
    output.add(["a" * 501, "b"], 2)

    assert output.shown == ["a" * 500, "b"]
