"""The sessions of pages are run and compared as their notation says."""

import os

import pytest

from .page import Block, Command, commands, hold, matches, play


def session(*lines):
    return Block("console", "", "".join(f"{line}\n" for line in lines), 10)


@pytest.mark.parametrize(
    ("shown", "output"),
    [
        ("one\n", "one\n"),
        ("…\n", ""),
        ("…\n", "one\ntwo\n"),
        ("one\n…\nfour\n", "one\ntwo\nthree\nfour\n"),
        ("one\n…\nfour\n", "one\nfour\n"),
        ("took … s\n", "took 1.5 s\n"),
        ("… s\n", "1.5 s\n"),
        ("took …\n", "took 1.5 s\n"),
        ("a+b (c)\n", "a+b (c)\n"),
        ("NAME\n", "NAME   \n"),
    ],
)
def test_what_is_shown_stands_for(shown, output):
    assert matches(shown, output)


@pytest.mark.parametrize(
    ("shown", "output"),
    [
        ("one\n", "two\n"),
        ("one\n", "one\ntwo\n"),
        ("one\ntwo\n", "one\n"),
        ("took … s\n", "took 1.5\n"),
        ("one … two\n", "one\ntwo\n"),
        ("a.b\n", "axb\n"),
        ("one\n…\nfour\n", "one\ntwo\n"),
    ],
)
def test_what_is_shown_does_not_stand_for(shown, output):
    assert not matches(shown, output)


def test_a_command_may_go_on_in_the_next_line():
    found = commands(session("$ echo one \\", "> two", "one two", "$ true"))

    assert found == [Command("echo one \\\ntwo", "one two\n", 11), Command("true", "", 14)]


def test_commands_share_a_shell_and_files_are_written_where_it_is(tmp_path):
    parts = [
        session("$ mkdir sub", "$ cd sub", "$ word=hello"),
        Block("yaml", "job.yaml", "model: $cnn\n", 20),
        Block("yaml", "", "not: a file\n", 25),
        session("$ cat job.yaml", "model: $cnn", "$ echo $word; echo loud >&2", "hello", "loud"),
        session("$ false", "$ echo $?", "1"),
    ]

    played = play(parts, tmp_path, dict(os.environ), timeout_s=20)

    hold("page.md", played)
    assert [command.text for command, _, _ in played][-2:] == ["false", "echo $?"]
    assert (tmp_path / "sub" / "job.yaml").exists()


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["$ echo two", "one"], r"page\.md:11: \$ echo two\nthe page shows:\none"),
        (["$ false", "$ echo next", "next"], "exited with 1"),
        (["$ false"], "exited with 1"),
    ],
)
def test_a_page_that_says_what_is_not_so_fails(tmp_path, lines, says):
    played = play([session(*lines)], tmp_path, dict(os.environ), timeout_s=20)

    with pytest.raises(AssertionError, match=says):
        hold("page.md", played)


def test_a_shell_that_ends_early_fails(tmp_path):
    with pytest.raises(AssertionError, match="the shell ended early"):
        play([session("$ exit 0", "$ echo never")], tmp_path, dict(os.environ), timeout_s=20)
