"""Numbers of things as people write them."""

import pytest

from ringfence.plugins.number_words import counted


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (1200, "1,200 steps")]
)
def test_one_is_told_in_the_singular(number, told):
    assert counted(number, "step") == told
