"""Results are accepted or refused for what they are, with a message that says what was expected."""

import gc
import itertools
import math
import tracemalloc

import pytest
import torch

from ringfence import AnotherPass, Batch, Histogram, LossScale, LossTerm, Report, TensorMap
from ringfence.plugins.result_checks import Names, ResultError, check_scalars
from ringfence.plugins.result_kinds import BATCH as BATCHES
from ringfence.plugins.result_kinds import GRADIENTS as MAPS
from ringfence.plugins.result_kinds import LOSS, NUMBER, PARAMETERS, REPORT, UPDATED
from ringfence.tensors.finite import is_finite

BATCH = Batch(torch.rand(4, 1, 3, 3), torch.tensor([0, 1, 2, 1]), torch.arange(4), 3)
GRADIENTS = TensorMap.like({"weight": torch.zeros(2, 3), "bias": torch.zeros(3)})
OUTPUTS = torch.zeros(4, 3)
_NUMBERS = itertools.count()


def check_result(kind, result, arguments):
    return kind.check(result, arguments, finite=True)


def refused(kind, result, **arguments):
    with pytest.raises(ResultError) as caught:
        check_result(kind, result, arguments)
    return str(caught.value)


def test_a_batch_keeps_the_hosts_indices():
    result = Batch(BATCH.inputs + 1, BATCH.targets, torch.tensor([9, 9, 9, 9]), 99)
    checked = check_result(BATCHES, result, {"batch": BATCH})
    assert torch.equal(checked.indices, BATCH.indices)
    assert checked.num_classes == 3


def test_mixed_labels_are_accepted_as_probabilities():
    soft = BATCH.with_(targets=torch.full((4, 3), 1 / 3))
    assert check_result(BATCHES, soft, {"batch": BATCH}).targets.shape == (4, 3)


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (BATCH.with_(inputs=torch.rand(4, 1, 2, 2)), "inputs of shape (4, 1, 2, 2); expected (4, 1, 3, 3)"),
        (BATCH.with_(inputs=BATCH.inputs.double()), "inputs of dtype torch.float64; expected torch.float32"),
        (BATCH.with_(inputs=BATCH.inputs * math.nan), "inputs with a value that is not finite"),
        (BATCH.with_(targets=torch.tensor([0, 1, 3, 0])), "a class outside 0 … 2"),
        (BATCH.with_(targets=torch.tensor([-1, 1, 2, 0])), "a class outside 0 … 2"),
        (BATCH.with_(targets=torch.zeros(4, 2)), "expected (4,) torch.int64, or (4, 3) torch.float32"),
        (BATCH.with_(targets=torch.full((4, 3), math.inf)), "targets with a value that is not finite"),
        (BATCH.inputs, "returned Tensor; expected a Batch or None"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(result, says):
    assert says in refused(BATCHES, result, batch=BATCH)


def test_regression_targets_must_keep_their_shape():
    batch = Batch(torch.rand(4, 2), torch.rand(4), torch.arange(4))
    assert "targets of shape" in refused(BATCHES, batch.with_(targets=torch.rand(4, 3)), batch=batch)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda g: g.pop("bias"), "missing ['bias']"),
        (lambda g: g.update(extra=torch.zeros(1)), "extra ['extra']"),
        (lambda g: g.update(bias=torch.zeros(4)), "gradient 'bias' of shape (4,); expected (3,)"),
        (lambda g: g.update(bias=torch.zeros(3).half()), "gradient 'bias' of dtype torch.float16"),
        (
            lambda g: g.update(bias=torch.tensor([0, math.nan, 0])),
            "gradient 'bias' with a value that is not finite",
        ),
        (lambda g: g.update(bias=[0, 0, 0]), "gradient 'bias' of type list"),
    ],
)
def test_gradients_that_do_not_fit_are_refused(change, says):
    result = dict(GRADIENTS)
    change(result)
    assert says in refused(MAPS, result, gradients=GRADIENTS)


def test_a_nan_is_named_in_a_map_of_the_same_layout():
    """Maps of one layout take a fast path; it must not lose the name."""
    result = GRADIENTS.clone()
    result["bias"][1] = math.inf
    assert "gradient 'bias'" in refused(MAPS, result, gradients=GRADIENTS)


def test_another_pass_is_checked_inside():
    good = check_result(UPDATED, AnotherPass(GRADIENTS.clone()), {"parameters": GRADIENTS})
    assert isinstance(good, AnotherPass)
    bad = GRADIENTS.clone()
    bad["weight"][0, 0] = math.nan
    assert "parameter 'weight'" in refused(UPDATED, AnotherPass(bad), parameters=GRADIENTS)


def test_loss_terms_need_the_shape_of_the_outputs():
    assert check_result(LOSS, LossTerm(1.0, torch.zeros(4, 3)), {"outputs": OUTPUTS}).value == 1.0
    flat = LossTerm(1.0, torch.zeros(4))
    assert "a loss term's gradient of shape" in refused(LOSS, flat, outputs=OUTPUTS)
    assert "not finite" in refused(LOSS, LossTerm(math.nan, OUTPUTS), outputs=OUTPUTS)
    assert "not finite" in refused(LOSS, LossScale(math.inf), outputs=OUTPUTS)
    # Finite as a double, and not as the loss will be.
    assert "not finite as torch.float32" in refused(LOSS, LossScale(-1e39), outputs=OUTPUTS)
    assert "not finite as torch.float32" in refused(LOSS, LossTerm(1e39, OUTPUTS), outputs=OUTPUTS)
    assert "returned float" in refused(LOSS, 1.0, outputs=OUTPUTS)


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (Report({"a b": 1.0}), "used the name 'a b'"),
        (Report({"\x1b[31m": 1.0}), "used the name"),
        (Report({str(i): 1.0 for i in range(5000)}), "logged 5000 numbers"),
        (Report({"x": "1"}), "expected a number"),
        (Report(histograms={"h": Histogram([1.0], [0.0])}), "expected N and N + 1"),
        (Report(histograms={"h": Histogram([-1.0], [0.0, 1.0])}), "negative"),
        (Report(histograms={"h": Histogram([1.0], [1.0, 1.0])}), "increasing"),
        (Report(histograms={"h": Histogram([1.0, 1.0], [0.0, math.nan, 1.0])}), "increasing"),
        (Report(images={"i": torch.zeros(4, 4)}), "image 'i' is not uint8"),
        (Report(images={"i": torch.zeros(4, 4, 4, dtype=torch.uint8)}), "image 'i' is not uint8"),
        ({"x": 1.0}, "expected a Report or None"),
    ],
)
def test_a_report_that_does_not_fit_is_refused(report, says):
    assert says in refused(REPORT, report)


def test_numbers_that_are_not_finite_may_be_logged():
    """A monitor exists to find them."""
    check_scalars({"loss": math.nan, "norm": math.inf})


def test_an_overflowing_sum_is_not_taken_for_infinity():
    assert is_finite(torch.full((4,), 3e38))
    assert not is_finite(torch.tensor([1.0, -math.inf, math.inf]))
    assert is_finite(torch.tensor([1, 2]))


@pytest.mark.parametrize("count", [7, 8192, 8193])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_found_among_few_and_many(count, bad):
    for size, dtype in (
        (1.0, torch.float64),
        (1e-30, torch.float32),
        (3e38, torch.float32),
        (1, torch.bfloat16),
    ):
        numbers = torch.full((count,), size, dtype=dtype)
        assert is_finite(numbers)
        for place in (0, count // 2, count - 1):
            numbers[place] = bad
            assert not is_finite(numbers)
            numbers[place] = size
    assert is_finite(torch.full((2 * count,), 2.0, requires_grad=True)[::2])


@pytest.mark.parametrize("bad", [complex(math.nan, 0), complex(0, math.inf)])
def test_a_complex_number_is_finite_if_both_its_parts_are(bad):
    assert is_finite(torch.tensor([1 + 2j, 3]))
    assert not is_finite(torch.tensor([1 + 2j, bad]))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 4, 3), (1025, 1), (1, 1025)])
def test_a_picture_has_one_to_1024_pixels_a_side(shape):
    assert "1 to 1024 pixels" in refused(REPORT, Report(images={"i": torch.zeros(shape, dtype=torch.uint8)}))


def reported(histograms: int, bins: int, pictures: int = 0) -> Report:
    histogram = Histogram([1.0] * bins, list(range(bins + 1)))
    picture = torch.zeros(1024, 1024, dtype=torch.uint8)
    return Report(
        {"x": 1.0},
        {f"h{n}": histogram for n in range(histograms)},
        {f"i{n}": picture for n in range(pictures)},
    )


def test_histograms_of_a_report_are_bounded_together():
    """Those of 161 parameters and their gradients, of 64 bins each, are not too many."""
    assert len(check_result(REPORT, reported(322, 64), {}).histograms) == 322
    message = refused(REPORT, reported(1020, 510))
    assert "reported histograms of 1,041,420 counts and edges in one call; at most 42,000" in message
    assert "fewer bins" in message


def test_pictures_of_a_report_are_bounded_together():
    assert len(check_result(REPORT, reported(1, 1, pictures=3), {}).images) == 3
    assert "reported pictures of 4.0 MiB in one call; at most 3 MiB" in refused(
        REPORT, reported(1, 1, pictures=4)
    )


@pytest.mark.parametrize("counts", [3, None, torch.tensor(1.0)])
def test_a_histogram_without_a_length_is_refused_in_words(counts):
    assert "holds what is no number" in refused(
        REPORT, Report(histograms={"h": Histogram(counts, [0.0, 1.0])})
    )


@pytest.mark.parametrize("hostile", [10**400, -(10**400)])
def test_an_integer_that_no_float_holds_is_refused(hostile):
    with pytest.raises(ResultError, match="of 1329 bits"):
        check_scalars({"x": hostile})
    assert "no number" in refused(REPORT, Report(histograms={"h": Histogram([hostile], [0.0, 1.0])}))


def test_a_number_that_a_float_holds_may_be_an_integer():
    check_scalars({"x": 10**300, "y": True})


@pytest.mark.parametrize("result", [0.5, 3, -(2**60)])
def test_a_number_is_a_float(result):
    assert NUMBER.check(result, {}, finite=True) == float(result)


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ("1", "returned str; expected a number or None"),
        (True, "returned bool; expected a number or None"),
        (torch.tensor(1.0), "returned Tensor; expected a number or None; write .item()"),
        (10**400, "returned a number of 1329 bits; expected one that a float holds"),
        (math.nan, "returned a number that is not finite"),
        (-math.inf, "returned a number that is not finite"),
    ],
)
def test_what_is_no_number_is_refused(result, says):
    assert refused(NUMBER, result) == says


def test_only_backward_may_ask_for_another_pass():
    assert refused(PARAMETERS, AnotherPass(GRADIENTS), parameters=GRADIENTS) == (
        "asked for another pass before the first; only backward may ask for one"
    )


@pytest.mark.parametrize(
    "check",
    [
        lambda name: check_scalars({name: 1.0}),
        lambda name: check_scalars({name: 1}),
        lambda name: check_result(REPORT, Report(histograms={name: Histogram([1.0], [0.0, 1.0])}), {}),
        lambda name: check_result(REPORT, Report(images={name: torch.zeros(1, 1, dtype=torch.uint8)}), {}),
    ],
    ids=["float", "int", "histogram", "image"],
)
def test_long_names_that_are_refused_are_not_kept(check):
    def send(count):
        for number in itertools.islice(_NUMBERS, count):  # each name is a new one
            with pytest.raises(ResultError, match="names are 1 to 200"):
                check(f"{number:x>{1 << 16}}")

    send(2)
    assert growth(lambda: send(64)) < 1 << 20


def test_names_that_are_too_many_are_not_kept():
    names = Names()

    def use(begin):
        names.add({f"{number:x>200}": 1.0 for number in range(begin, begin + 4096)}, None)

    def use_too_many():
        for begin in range(8192, 40960, 4096):
            with pytest.raises(ResultError, match="over 8192 different names"):
                use(begin)

    use(0)
    use(4096)
    assert growth(use_too_many) < 1 << 20
    use(4096)  # those that are known may be used on


def growth(work):
    """Return by how many bytes what Python holds has grown with ``work``."""
    tracemalloc.start()
    try:
        work()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
