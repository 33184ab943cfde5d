"""Samples of an epoch, drawn by weight."""

import pytest
import torch
from engine_helpers import image_data
from torch.utils.data import WeightedRandomSampler

from ringfence.engine.data import Plan, batches
from ringfence.engine.sample_weights import MOST_SAMPLES, SampleWeights
from ringfence.hooks.errors import DataError
from ringfence.hooks.types import derive_seed


def weighted(*weights):
    return SampleWeights(torch.tensor(weights, dtype=torch.float64), "told")


def test_an_epoch_is_what_torchs_own_sampler_draws_from_the_same_seed():
    weights = torch.rand(50, dtype=torch.float64)
    order = SampleWeights(weights, "told")
    for epoch in range(3):
        generator = torch.Generator().manual_seed(derive_seed(7, "order", epoch))
        sampler = WeightedRandomSampler(weights, 50, replacement=True, generator=generator)
        assert order(50, 7, epoch).tolist() == list(sampler)
        assert order(50, 8, epoch).tolist() != order(50, 7, epoch).tolist()


def test_nothing_is_drawn_from_the_global_generator_nor_of_weight_0():
    before = torch.get_rng_state()
    order = weighted(0, 1, 0, 3)
    drawn = torch.cat([order(4, 1, epoch) for epoch in range(1000)]).bincount(minlength=4)
    assert torch.equal(before, torch.get_rng_state())
    assert drawn.tolist()[::2] == [0, 0]
    # Of 4,000 with a share of a quarter, 27 are one standard deviation.
    assert drawn[1] == pytest.approx(1000, abs=140)


@pytest.mark.parametrize("step", range(1, 12))
def test_a_run_that_is_resumed_in_an_epoch_gets_the_rest_of_its_draws(step):
    data = image_data(train=30)
    plan = Plan(30, 8, 2, SampleWeights(torch.arange(30, dtype=torch.float64), "told"))

    def draw(first):
        return [
            batch.indices.tolist()
            for batch, _ in batches(
                data.train, plan, 3, first_step=first, steps_total=12, lr_factor=lambda _: 1.0
            )
        ]

    assert draw(step) == draw(0)[2 * step :]


def test_how_many_different_ones_an_epoch_holds():
    assert weighted(0, 5, 0).distinct == 1
    assert SampleWeights(torch.full((1000,), 0.1, dtype=torch.float64), "told").distinct == 632


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ((1, -2), "sample 1 has the weight -2; expected 0 or more"),
        ((float("nan"), 1), "sample 0 has the weight nan"),
        ((1, float("inf")), "sample 1 has the weight inf"),
        ((0, 0, 0), "the weights of 3 training samples add up to 0"),
        ((1.7e308, 1.7e308), "add up to inf"),
    ],
)
def test_what_is_no_weight_is_refused(weights, told):
    with pytest.raises(DataError, match=told):
        weighted(*weights)


def test_more_samples_than_torch_draws_from_are_refused():
    many = torch.ones(1, dtype=torch.float64).expand(MOST_SAMPLES + 1)
    with pytest.raises(DataError, match="are more than the 16,777,216 that torch draws from"):
        SampleWeights(many, "told")
