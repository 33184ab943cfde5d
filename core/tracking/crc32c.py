"""CRC-32C, as TensorBoard's files have it.

TensorBoard's own, a loop over bytes in Python, takes a second for a picture of 3 MiB.

Source: Castagnoli et al. 1993, doi:10.1109/26.231911; the reflected polynomial is 0x82F63B78.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78
_ALL = 0xFFFFFFFF
#: Bytes that one lane takes, one after the other, while the others take theirs; a power of two.
_LANE_BYTES = 512
#: Below, a loop over bytes is as fast.
_LEAST_BYTES = 16 << 10
_BYTE = np.uint32(8)
_LOW = np.uint32(0xFF)

_Words = NDArray[np.uint32]


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of ``data``."""
    if len(data) < _LEAST_BYTES:
        table, state = _table_of_ints(), _ALL
        for byte in data:
            state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
        return state ^ _ALL
    return int(_combined(_by_lanes(data))[0]) ^ _ALL


def masked(crc: int) -> int:
    """Return a CRC as TensorBoard's files have it, so that one may lie in data that has one itself."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _ALL


def _by_lanes(data: bytes) -> _Words:
    """Return the remainder of each ``_LANE_BYTES`` bytes, as if nothing came before them."""
    lanes = 1 << (-(-len(data) // _LANE_BYTES) - 1).bit_length()
    # Zeros in front leave a remainder of zero as it is; the first register of ones goes into the data.
    padded = np.zeros(lanes * _LANE_BYTES, np.uint8)
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    padded[len(padded) - len(data) :][:4] ^= 0xFF
    columns = np.ascontiguousarray(padded.reshape(lanes, _LANE_BYTES).T)
    table, state = _table(), np.zeros(lanes, np.uint32)
    for column in columns:
        state = table[(state ^ column) & _LOW] ^ (state >> _BYTE)
    return state


def _combined(state: _Words) -> _Words:
    """Join the remainders of neighbours until there is one."""
    for level in range(len(state).bit_length() - 1):
        state = _shifted(state[0::2], _shift(level)) ^ state[1::2]
    return state


@cache
def _shift(level: int) -> tuple[_Words, ...]:
    """Return what ``2**level`` lanes of zeros make of each byte of a remainder, four tables."""
    if level == 0:
        tables = _zero_byte()
        for _ in range(_LANE_BYTES.bit_length() - 1):
            tables = tuple(_shifted(each, tables) for each in tables)
        return tables
    half = _shift(level - 1)
    return tuple(_shifted(each, half) for each in half)


def _zero_byte() -> tuple[_Words, ...]:
    """Return what one byte of zero makes of each byte of a remainder."""
    values = np.arange(256, dtype=np.uint32)
    return (_table(), *(values << np.uint32(8 * (place - 1)) for place in (1, 2, 3)))


def _shifted(state: _Words, tables: tuple[_Words, ...]) -> _Words:
    made = np.zeros_like(state)
    for i, table in enumerate(tables):
        made ^= table[(state >> np.uint32(8 * i)) & _LOW]
    return made


@cache
def _table() -> _Words:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ (table & np.uint32(1)) * np.uint32(_POLYNOMIAL)
    return table


@cache
def _table_of_ints() -> list[int]:
    return [int(value) for value in _table()]
