"""Plain data survives the way to bytes and back; anything else is refused without running code."""

import json
import pickle
import random
import struct
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.tensors import pytree

KEYS = st.one_of(st.text(max_size=8), st.integers(-(2**63), 2**63 - 1), st.booleans())
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
@settings(max_examples=100, deadline=None)
def test_plain_data_comes_back_equal(value):
    assert pytree.loads(pytree.dumps(value)) == value


@pytest.mark.parametrize(
    "word", ["__metadata__", '{"__metadata__": {"ringfence": "1"}}', '"__metadata__":', "\\u005f_metadata__"]
)
def test_the_words_of_its_own_form_come_back(word):
    state = {word: [word, torch.ones(2)], "other": {word: word}}
    loaded = pytree.loads(pytree.dumps(state))
    assert loaded[word][0] == word
    assert loaded["other"] == {word: word}


@pytest.mark.parametrize("name", ["__metadata__x", "x__metadata__"])
def test_a_tensor_may_not_be_named_like_the_structure(name):
    entry = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    header = {"__metadata__": {"ringfence": json.dumps({"t": name})}, name: entry}
    for order in (header, dict(reversed(header.items()))):
        with pytest.raises(pytree.PlainDataError, match="it names its tensors otherwise"):
            pytree.loads(raw(json.dumps(order).encode(), b"0"))


def test_tensors_come_back_bit_equal_and_private():
    base = torch.randn(4, 4)
    state = {0: {"exp_avg": base.t(), "step": torch.tensor(3.0)}, "half": base.bfloat16(), "view": base[1:]}
    loaded = pytree.loads(pytree.dumps(state))
    assert torch.equal(loaded[0]["exp_avg"], base.t())
    assert loaded["half"].dtype == torch.bfloat16
    base.zero_()
    assert loaded["view"].abs().sum() > 0


def test_an_optimizers_state_comes_back():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    loaded = pytree.loads(pytree.dumps(optimizer.state_dict()))
    other = torch.optim.Adam(model.parameters())
    other.load_state_dict(loaded)
    states = [each.state_dict()["state"][0]["exp_avg"] for each in (other, optimizer)]
    assert torch.equal(*states)


def test_what_is_not_plain_is_named_with_its_place():
    with pytest.raises(pytree.PlainDataError, match=r"state\['a'\]\[1\] is of type object"):
        pytree.dumps({"a": [1, object()]})
    with pytest.raises(pytree.PlainDataError, match="key of type tuple"):
        pytree.dumps({(1, 2): 3})
    nested = []
    for _ in range(40):
        nested = [nested]
    with pytest.raises(pytree.PlainDataError, match="nested"):
        pytree.dumps(nested)


class Bomb:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (pytest.fail, ("a plugin's bytes were unpickled",))


def test_what_loads_would_refuse_dumps_refuses():
    with pytest.raises(pytree.PlainDataError, match=r"over 500000 values.*in tensors"):
        pytree.dumps([0] * 600_000)
    with pytest.raises(pytree.PlainDataError, match=r"9\d{6} bytes beside its tensors"):
        pytree.dumps("x" * 9_000_000)
    with pytest.raises(pytree.PlainDataError, match="more than 64 bits as a key"):
        pytree.dumps({2**63: 1})


def test_a_tensor_used_twice_is_written_twice():
    shared = torch.ones(3)
    first, second = pytree.loads(pytree.dumps([shared, shared]))
    first.zero_()
    assert torch.equal(second, shared)


def raw(header, body=b""):
    """Build a file around a header as it stands, or around one to write as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def one(structure, shape=(1,), dtype="U8", body=b"0", offsets=(0, 1), name="0"):
    return raw(
        {
            "__metadata__": {"ringfence": structure},
            name: {"dtype": dtype, "shape": shape, "data_offsets": offsets},
        },
        body,
    )


IMPOSSIBLE = {
    "size overflows": one('{"t":"0"}', (0, 2**62, 2**62), "F32", b"", (0, 0)),
    "dimension overflows": one('{"t":"0"}', (0, 2**63), "F32", b"", (0, 0)),
    "dimension is no 64-bit number": one('{"t":"0"}', (0, 2**64), "F32", b"", (0, 0)),
    "too many dimensions": one('{"t":"0"}', (1,) * 65),
    "far too many dimensions": one('{"t":"0"}', (1,) * 3_000_000),
    "unknown type": one('{"t":"0"}', dtype="F6_E2M3"),
    "type of half a byte": one('{"t":"0"}', (2,), dtype="F4"),
    "tensor twice": one('[{"t":"0"},{"t":"0"}]'),
    "tensor never": one("[]"),
    "numbers too long": one("[" + "1" * 5000 + "]"),
    "key too long": one('{"d":[[' + str(2**63) + ",1]]}"),
    "header cut off": struct.pack("<Q", 2**63) + b"{}",
}


@pytest.mark.parametrize("data", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_no_state_can_hold_is_refused(data):
    with pytest.raises(pytree.PlainDataError):
        pytree.loads(data)


@pytest.mark.parametrize(
    "data",
    [
        one('{"t":"0"}', name="\x1b[31mEVIL\x1b]0;title\x07\n", offsets=(5, 9)),
        one('{"t":"0"}', dtype="\x1b[31mEVIL"),
        raw({"__metadata__": {"ringfence": "\x1b[31mEVIL"}}),
        raw({"__metadata__": {"ringfence": "1"}, "\x1b" + "E" * 5000: 1}),
    ],
)
def test_what_a_parser_says_is_made_fit_for_a_terminal(data):
    with pytest.raises(pytree.PlainDataError) as caught:
        pytree.loads(data)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_flipped_bytes_load_or_are_refused(seed):
    source = random.Random(seed)  # noqa: S311 - the same damage on every run
    data = bytearray(pytree.dumps({"a": torch.ones(3), "b": [1, {"c": None}, torch.zeros(0, 2)]}))
    for _ in range(source.randint(1, 4)):
        data[source.randrange(len(data))] = source.randrange(256)
    try:
        pytree.loads(bytes(data))
    except pytree.PlainDataError:
        return


def meta(text):
    return json.dumps({"__metadata__": {"ringfence": text}}, separators=(",", ":")).encode()


def bombs():
    """Yield headers that would cost hundreds of MiB once they are parsed; each meets another limit."""
    yield "long", raw(meta("[" + ",".join(["[]"] * 5_000_000) + "]"))
    yield "lists", raw(meta("[" + ",".join(["[]"] * 2_600_000) + "]"))
    yield "dicts", raw(meta("[" + ",".join(["{}"] * 2_600_000) + "]"))
    yield "escaped", raw(meta("@").replace(b"@", b"[" + rb"[\u005d\u002c" * 600_000 + b"1]"))
    ours = b'{"__metadata__":{"ringfence":"1"'
    keys = b"".join(b',"%x":""' % i for i in range(700_000))
    yield "metadata", raw(ours + keys + b"}}")
    yield "metadata twice", raw(b'{"__metadata__":{' + keys[1:] + b"}," + ours[1:] + b"}}")
    yield "unknown", raw(ours + b'},"x":[' + b"[]," * 2_600_000 + b"[]]}")
    entry = b',"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    yield "tensors", raw(ours + b"}" + b"".join(entry % i for i in range(140_000)) + b"}")
    yield (
        "dims",
        raw(ours + b'},"0":{"dtype":"U8","data_offsets":[0,1],"shape":[' + b"1," * 3_900_000 + b"1]}}", b"0"),
    )


MEASURE = """
import sys, time
from pathlib import Path
from ringfence.tensors import pytree
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")).split()[1])
pytree.loads(pytree.dumps([1]))
data = Path(sys.argv[1]).read_bytes()
before, started = peak(), time.process_time()
try:
    pytree.loads(data)
except pytree.PlainDataError as error:
    print(time.process_time() - started, peak() - before, error, sep="|")
"""


@pytest.mark.parametrize(
    "bomb",
    ["long", "lists", "dicts", "escaped", "metadata", "metadata twice", "unknown", "tensors", "dims"],
)
def test_a_bomb_is_refused_before_it_costs_memory(bomb, tmp_path):
    data = dict(bombs())[bomb]
    assert len(data) > 7_000_000
    (tmp_path / "state").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "state")], capture_output=True, text=True, check=True
    )
    seconds, kib, said = done.stdout.strip().split("|")
    print(bomb, seconds, "s", kib, "KiB", len(data), "bytes:", said)
    # Some 20 ms where nothing else runs; parsing would take seconds.
    assert float(seconds) < 0.25
    # The state itself, its header and its metadata are some MiB each.
    assert int(kib) < 20 * 1024


def hostile():
    good = pytree.dumps({"a": torch.ones(3), "b": [1, {"c": None}]})
    yield b""
    yield pickle.dumps(Bomb())
    yield from (good[:cut] for cut in range(0, len(good), 7))
    yield from (good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :] for at in range(8))
    deep = "[" * 100_000 + "]" * 100_000
    for structure in (
        deep,
        json.dumps({"t": "7"}),
        json.dumps({"x": 1}),
        json.dumps({"d": [[1]]}),
        "nonsense",
    ):
        yield safetensors.torch.save({"0": torch.ones(1)}, metadata={"ringfence": structure})
    yield safetensors.torch.save({"0": torch.ones(1)})


@pytest.mark.parametrize("data", list(hostile()), ids=range(len(list(hostile()))))
def test_damaged_or_hostile_bytes_are_refused(data):
    with pytest.raises(pytree.PlainDataError):
        pytree.loads(data)
