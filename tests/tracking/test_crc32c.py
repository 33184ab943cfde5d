"""The check that TensorBoard's files carry."""

import random

import pytest
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c as reference
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from ringfence.tracking.crc32c import crc32c, masked


def test_the_published_example():
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("size", [0, 1, 4, 100, 16383, 16384, 16385, 32768, 65537, 100_001])
def test_it_is_tensorboards_own(size):
    data = random.Random(size).randbytes(size)  # noqa: S311 - the same at every run
    assert crc32c(data) == reference(data)
    assert masked(crc32c(data)) == masked_crc32c(data)


def test_zeros_in_front_count():
    assert crc32c(bytes(20_000)) == reference(bytes(20_000)) != crc32c(bytes(20_001))
