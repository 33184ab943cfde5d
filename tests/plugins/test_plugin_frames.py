"""Of a traceback the plugin's frames and the last one are kept, as text: no file that it names is opened."""

from itertools import chain
from pathlib import Path

import pytest

from ringfence.plugins import plugin_frames
from ringfence.plugins.plugin_frames import Spot, own_frames, raised_at, split_dump, spot, spot_in

OURS = Path(plugin_frames.__file__).parents[1]
HEAD = "Traceback (most recent call last):"
WORKER = [
    f'  File "{OURS}/isolation/worker/serve.py", line 243, in _call',
    "    result = getattr(plugin, method)()",
]
PLUGIN = [
    '  File "/site-packages/acme/plugin.py", line 7, in backward',
    "    return helper(x)",
    "           ^^^",
]
HELPER = ['  File "/site-packages/acme/deep/helper.py", line 3, in helper', "    torch.cat(x)"]
TORCH = ['  File "/site-packages/torch/a.py", line 1, in cat', "    inner(x)"]
INNER = ['  File "/site-packages/torch/b.py", line 2, in inner', "    raise ValueError"]
SINGLE = ['  File "/site-packages/single.py", line 4, in forward', "    torch.cat(x)"]
IMPORT = [
    '  File "<frozen importlib._bootstrap>", line 241, in _call',
    '  File "/l/importlib/__init__.py", line 1, in a',
]


@pytest.mark.parametrize(
    ("frames", "kept", "where"),
    [
        ([WORKER, PLUGIN, HELPER], [PLUGIN, HELPER], "/site-packages/acme/deep/helper.py:3: torch.cat(x)"),
        (
            [WORKER, PLUGIN, TORCH, INNER],
            [PLUGIN, INNER],
            "/site-packages/acme/plugin.py:7: return helper(x)",
        ),
        ([WORKER, PLUGIN, TORCH, HELPER, INNER], [PLUGIN, HELPER, INNER], None),
        ([WORKER, SINGLE, TORCH, INNER], [SINGLE, INNER], "/site-packages/single.py:4: torch.cat(x)"),
        ([WORKER, IMPORT, PLUGIN], [PLUGIN], "/site-packages/acme/plugin.py:7: return helper(x)"),
        ([WORKER], [], ""),
    ],
)
def test_the_plugins_frames_and_the_last_one_are_kept(frames, kept, where):
    lines = [HEAD, *chain(*frames), "ValueError: no"]

    assert own_frames(lines) == [HEAD, *chain(*kept), "ValueError: no"]
    if where is not None:
        assert raised_at("\n".join(lines)) == (f" ({where})" if where else "")


def test_each_part_of_a_chain_is_cut_for_itself_and_the_last_part_is_where_it_raised():
    lines = [
        HEAD,
        *WORKER,
        *PLUGIN,
        "KeyError: 1",
        "",
        "During handling …",
        "",
        HEAD,
        *WORKER,
        *HELPER,
        "OSError",
    ]

    assert own_frames(lines) == [line for line in lines if line not in WORKER]
    assert spot("\n".join(lines)) == Spot("/site-packages/acme/deep/helper.py", 3, "torch.cat(x)")


@pytest.mark.parametrize("text", ["", "no traceback", '  File "', '  File "a", line x', f"{HEAD}\n"])
def test_other_text_has_no_place(text):
    assert spot(text) is None
    assert raised_at(text) == ""
    assert "\n".join(own_frames(text.splitlines())) in (text.rstrip("\n"), "")


def test_a_place_is_one_of_the_files_asked_for():
    text = "\n".join([HEAD, *PLUGIN, *INNER, '  File "/etc/passwd", line 1, in x'])

    assert spot_in(text, [Path("/site-packages/acme/plugin.py"), Path("/other.py")]) == (
        Path("/site-packages/acme/plugin.py"),
        7,
    )
    assert spot_in(text, []) is None


DUMPED = [
    '  File "/site-packages/acme/plugin.py", line 7 in backward',
    '  File "/site-packages/x.py", line 1 in y',
]


@pytest.mark.parametrize("head", ["Current thread 0x1", "Thread 0x1"])
def test_a_dump_of_the_fault_handler_becomes_a_traceback(head):
    other = ["Thread 0x2 (most recent call first):", '  File "/other.py", line 9 in wait', ""]
    fatal = ["Fatal Python error: Segmentation fault", ""]

    printed, traceback = split_dump(
        ["hello", *fatal, *other, f"{head} (most recent call first):", *DUMPED, "", "Extension modules: a"]
    )

    assert printed == ["hello"]
    assert traceback.splitlines() == [
        HEAD,
        '  File "/site-packages/x.py", line 1, in y',
        '  File "/site-packages/acme/plugin.py", line 7, in backward',
    ]


@pytest.mark.parametrize(
    "lines", [[], ["hello"], ["Fatal Python error: Aborted"], ["Fatal Python error: ", "x"]]
)
def test_what_is_no_dump_gives_no_traceback(lines):
    assert split_dump(lines)[1] == ""
