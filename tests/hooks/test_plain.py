"""Plain data survives the way to bytes and back; anything else is refused without running code."""

import json
import pickle

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.hooks import plain

KEYS = st.one_of(st.text(max_size=8), st.integers(), st.booleans())
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
@settings(max_examples=100, deadline=None)
def test_plain_data_comes_back_equal(value):
    assert plain.loads(plain.dumps(value)) == value


def test_tensors_come_back_bit_equal_and_private():
    base = torch.randn(4, 4)
    state = {0: {"exp_avg": base.t(), "step": torch.tensor(3.0)}, "half": base.bfloat16(), "view": base[1:]}
    loaded = plain.loads(plain.dumps(state))
    assert torch.equal(loaded[0]["exp_avg"], base.t())
    assert loaded["half"].dtype == torch.bfloat16
    base.zero_()
    assert loaded["view"].abs().sum() > 0


def test_an_optimizers_state_comes_back():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    loaded = plain.loads(plain.dumps(optimizer.state_dict()))
    other = torch.optim.Adam(model.parameters())
    other.load_state_dict(loaded)
    states = [each.state_dict()["state"][0]["exp_avg"] for each in (other, optimizer)]
    assert torch.equal(*states)


def test_what_is_not_plain_is_named_with_its_place():
    with pytest.raises(plain.PlainDataError, match=r"state\['a'\]\[1\] is of type object"):
        plain.dumps({"a": [1, object()]})
    with pytest.raises(plain.PlainDataError, match="key of type tuple"):
        plain.dumps({(1, 2): 3})
    nested = []
    for _ in range(40):
        nested = [nested]
    with pytest.raises(plain.PlainDataError, match="nested"):
        plain.dumps(nested)


class Bomb:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (pytest.fail, ("a plugin's bytes were unpickled",))


def hostile():
    good = plain.dumps({"a": torch.ones(3), "b": [1, {"c": None}]})
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
    with pytest.raises(plain.PlainDataError):
        plain.loads(data)
