"""Which lines of a traceback are the user's own."""

import importlib.util
import json
import sys
import textwrap

import pytest
import torch

from ringfence.imports.user_frames import MAX_FRAMES, user_frame, user_frames


def caught(function, *arguments):
    with pytest.raises(Exception) as error:  # noqa: PT011 - whatever it raises is looked at
        function(*arguments)
    return error.value


def module(path, source):
    """Write a module and import it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, inputs):
            return self.head(inputs)

        def head(self, inputs):
            return self.layer(inputs)
"""


def test_it_is_the_innermost_line_of_the_users_and_not_torchs(tmp_path):
    path = tmp_path / "net.py"
    error = caught(module(path, NET).Net(), torch.zeros(1, 4))

    assert user_frame(error) == f"{path}:14, in Net.head: return self.layer(inputs)"
    assert user_frames(error)[-2:] == [
        f"{path}:11, in Net.forward: return self.head(inputs)",
        user_frame(error),
    ]


def test_an_installed_package_is_nobodys_own_code(tmp_path):
    path = tmp_path / "site-packages" / "net.py"
    error = caught(module(path, NET).Net(), torch.zeros(1, 4))

    # What calls it is.
    assert user_frame(error).startswith(f"{__file__}:")
    assert user_frame(error).endswith("in caught: function(*arguments)")


def test_where_none_of_it_is_the_users_it_is_the_innermost_line():
    error = caught(json.loads, "{")
    # As if ringfence had called it.
    error.__traceback__ = error.__traceback__.tb_next.tb_next

    assert user_frame(error).startswith(json.decoder.__file__)
    assert "raw_decode: obj, end = self.scan_once(s, idx)" in user_frame(error)


def test_our_own_lines_are_not_the_users(tmp_path):
    path = tmp_path / "callback.py"
    inner = module(path, "def f():\n    raise ValueError('no')\n")
    frames = {"__name__": "ringfence.engine.made_up", "f": inner.f}
    exec(compile("def call():\n    f()", str(tmp_path / "ours.py"), "exec"), frames)  # noqa: S102

    error = caught(frames["call"])

    assert not any("ours.py" in line for line in user_frames(error))
    assert user_frame(error) == f"{path}:2, in f: raise ValueError('no')"


def test_what_python_cannot_read_is_told_with_its_line(tmp_path):
    path = tmp_path / "broken.py"
    error = caught(module, path, "x = 1\ndef f(:\n")

    assert user_frames(error) == [f"{path}:2: def f(:"]


def test_endless_recursion_is_told_in_few_lines(tmp_path):
    error = caught(module(tmp_path / "deep.py", "def f(n):\n    return f(n + 1)\n").f, 0)

    assert sys.getrecursionlimit() > MAX_FRAMES == len(user_frames(error))


def test_an_exception_that_nobody_raised_has_no_line():
    assert user_frames(ValueError("x")) == []
    assert user_frame(ValueError("x")) == "an unknown line"


def test_control_characters_of_a_source_line_do_not_reach_a_terminal(tmp_path):
    error = caught(module(tmp_path / "odd.py", "def f():\n    raise ValueError('\x1b[2J')\n").f)

    assert "\x1b" not in user_frame(error)
    assert "\\x1b[2J" in user_frame(error)
