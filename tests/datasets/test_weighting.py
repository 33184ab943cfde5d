"""Weights of samples as a job says them: by class, by a function, or given."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset

from ringfence.datasets.split import HoldOut
from ringfence.datasets.user_data import user_data
from ringfence.datasets.weighting import weigh_samples
from ringfence.engine.data import Dataset
from ringfence.hooks.errors import DataError

CLASSES = torch.tensor([0, 1, 1, 1, 2, 1])
DATA = Dataset(torch.rand(6, 2), CLASSES, 3, ("cat", "dog", "eel"))


class Pictures(TorchDataset):
    """As those of torchvision: what each is, is known before it is read."""

    classes = ("a", "b", "c")
    targets = (0, 1, 2, 1, 1, 1, 0, 1, 2, 1)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return torch.rand(2), Pictures.targets[index]


class Turned(Pictures):
    targets = (*Pictures.targets[::-1][1:], 0)


class Unknown(Pictures):
    @property
    def targets(self):
        raise AttributeError("targets")

    def __len__(self):
        return 10


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.rand(2), 1


def read(kind, fraction=0.0):
    parts = kind(), Pictures()
    return user_data("own:data", {"classes": 3}, None, given=lambda: parts, asked=HoldOut(fraction)).train


def weights(asked, train=DATA, given=None, base=None):
    return weigh_samples(asked, train, base, given).weights.tolist()


def test_balanced_draws_each_class_equally_often():
    found = torch.tensor(weights("balanced"), dtype=torch.float64)
    shares = torch.zeros(3, dtype=torch.float64).index_add(0, CLASSES, found) / found.sum()
    assert shares.tolist() == pytest.approx([1 / 3] * 3)


def test_a_class_without_samples_takes_no_part():
    assert weights("balanced", replace(DATA, num_classes=4, class_names=())) == weights("balanced")


def test_classes_have_weights_by_name_or_by_number():
    drawn = weigh_samples({"cat": 4, "eel": 0}, DATA, None)
    assert drawn.weights.tolist() == [4, 1, 1, 1, 0, 1]
    assert drawn.told == "cat 4, eel 0, the others 1"
    unnamed = replace(DATA, class_names=())
    assert weights({0: 4, "2": 0}, unnamed) == drawn.weights.tolist()


def test_a_name_that_is_a_number_is_a_name():
    assert weights({1: 5}, replace(DATA, class_names=("1", "2", "3"))) == [5, 1, 1, 1, 1, 1]


def test_of_samples_that_are_held_out_no_weight_is_asked():
    part = replace(DATA, rows=torch.tensor([4, 0, 1]))
    assert weights({"eel": 7}, part) == [7, 1, 1]
    assert weights("<by>", part, lambda targets: targets + 1) == [3, 1, 2]
    # A program that has a weight for each of its samples knows nothing of the split.
    assert weights("<list>", part, [1, 2, 3, 4, 5, 6]) == [5, 1, 2]


def test_of_data_that_are_read_the_data_set_is_asked():
    part = read(Pictures, 0.3)
    assert len(part) == 7
    of_class = torch.tensor([2.0, 1.0, 9.0])
    expected = of_class[torch.tensor(Pictures.targets)][part.rows].tolist()
    assert weights({"a": 2, "c": 9}, part) == expected
    assert weights("<by>", part, lambda samples: [of_class[c] for c in samples.targets]) == expected


def test_a_function_beside_the_job_is_found_and_given_the_targets(tmp_path):
    (tmp_path / "weights_beside.py").write_text("def rare(targets):\n    return 1.0 + (targets == 2)\n")
    drawn = weigh_samples("weights_beside:rare", DATA, tmp_path)
    assert drawn.weights.tolist() == [1, 1, 1, 1, 2, 1]
    assert drawn.told == "weights_beside:rare"


@pytest.mark.parametrize(
    ("asked", "train", "given", "told"),
    [
        ({"dig": 2}, DATA, None, r"names the class 'dig', which is unknown; did you mean 'dog'\?"),
        (
            {3: 2},
            replace(DATA, class_names=()),
            None,
            "names the class '3', which is unknown; known: 0, 1, 2",
        ),
        ({"cat": 0, "dog": 0, "eel": 0}, DATA, None, "add up to 0"),
        (
            "balanced",
            Dataset(torch.rand(3, 2), torch.rand(3, 1), None),
            None,
            "targets of these data are no c",
        ),
        ("balanced", Dataset(torch.rand(3, 2), torch.rand(3, 4), 4), None, "are shares of several classes"),
        ("balanced", Dataset(torch.rand(3, 5), torch.ones(3, 5).long(), 4), None, "a class at each position"),
        ("balanced", lambda: read(Unknown), None, "the Unknown has no 'targets' that would tell the class"),
        ("balanced", lambda: read(Turned), None, "the 'targets' of the Turned are not those of the samples"),
        ("balanced", lambda: read(Stream), None, "the training data have no length"),
        ("nowhere_at_all:by", DATA, None, "module 'nowhere_at_all' could not be imported"),
        (
            "<by>",
            DATA,
            lambda _: 1 / 0,
            r"'<by>': raised ZeroDivisionError: division by zero; at .*test_weigh",
        ),
        ("<by>", DATA, lambda _: None, "'<by>' returned a NoneType; expected one number for each sample"),
        ("<by>", DATA, lambda targets: targets[1:], r"gives weights of shape \(5,\) for 6 training samples"),
        ("<by>", DATA, lambda targets: targets - 1, "sample 0 has the weight -1"),
        (
            "<list>",
            replace(DATA, rows=torch.tensor([4, 0])),
            [1, 2],
            r"shape \(2,\) for 6 samples, those that",
        ),
    ],
)
def test_what_cannot_be_drawn_by_is_refused_with_what_to_do(tmp_path, asked, train, given, told):
    with pytest.raises(DataError, match=told):
        weigh_samples(asked, train() if callable(train) else train, tmp_path, given)
