"""A monitor that replies as slowly as can be, and one that keeps a state which is none."""

import json
import struct
import time

import inside
from frames import BOMB
from hostile import Hostile

from ringfence import passthrough
from ringfence.tensors import pytree
from ringfence.tensors.tensor_file import TensorFile


class Loris:
    """Never ends a reply that it has begun; its outbox fills byte by byte."""

    role = "monitor"
    forward = passthrough

    def backward(self, parameters, step):
        outbox = inside.outbox()
        for place in range(outbox.numel()):
            outbox[place] = 0x91
            time.sleep(0.05)


def _safetensors(structure, **tensors):
    header = json.dumps({"__metadata__": {"ringfence": structure}, **tensors}).encode()
    return struct.pack("<Q", len(header)) + header


def _one_tensor(shape, end):
    """Return a file that says that it holds a tensor, and holds no byte of it."""
    return _safetensors('{"t": "0"}', **{"0": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}})


#: What is handed over in the place of a state.
STATES = {
    "bomb": BOMB,
    "bomb_in_a_tensor_file": struct.pack("<Q", len(BOMB)) + BOMB,
    "bomb_as_structure": _safetensors(BOMB.decode("latin-1")),
    "deep": _safetensors("[" * 100_000),
    "deep_and_closed": _safetensors("[" * 5000 + "]" * 5000),
    "wide": _safetensors("[" + "0," * 600_000 + "0]"),
    "not_utf8": struct.pack("<Q", 8) + b"\xff" * 8,
    "header_beyond_the_end": struct.pack("<Q", 1 << 62) + b"{}",
    "tensor_beyond_the_end": _one_tensor([1000], 4000),
    "negative_shape": _one_tensor([-1, -4], 0),
    "overflowing_shape": _one_tensor([1 << 32, 1 << 32], 0),
}


class Stateful(Hostile):
    """Keeps a state that ``STATES`` names."""

    def __init__(self, attack: str, aim: dict, at: int = 1):
        super().__init__("files:credentials", aim, at)
        pytree.encode = lambda *_, **__: TensorFile(STATES[attack], {})

    def backward(self, gradients, step):
        return None

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        """Keep nothing of it."""
