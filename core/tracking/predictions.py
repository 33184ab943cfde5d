"""``test_predictions.npz``: what the finished model made of the test data, for the report and for users.

Of many samples an even selection is kept; whatever is counted is counted over all. Documented in
``docs/run-folder.md``.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .numpy_archive import DamagedArchiveError, read_archive
from .untrusted_folder import Tree

TEST_PREDICTIONS = "test_predictions.npz"
MISTAKES = "mistakes"
SCHEMA = 1
#: Kept one by one; the mistakes that are shown are always among them.
MAX_SAMPLES = 100_000
#: Cells of the confusion matrix that are not zero: the largest are kept.
MAX_PAIRS = 65_536
#: Beyond, what there is of each class is left out.
MAX_CLASSES = 65_536
#: Class names that are read.
MAX_NAMED = 100_000
#: Of a regression with more numbers a sample, the first.
MAX_COLUMNS = 8
MAX_FILE_BYTES = 32 << 20
MAX_MISTAKES = 64
CALIBRATION_BINS = 15
_MAX_NAME = 100
_LARGEST = 2**53

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model made of one part of the data: N samples, of which n are kept one by one.

    Attributes:
        part: ``test``, or ``validation`` where there are no test data.
        samples: N.
        classes: K; 0 for a regression.
        class_names: K names, or none.
        index: Place of each in what was read, (n,) increasing within the part.
        target: Class numbers (n,), or numbers (n, C).
        predicted: The same.
        predicted_probability: Of the predicted class, (n,); empty for a regression.
        target_probability: Of the target, (n,); likewise.
        loss: (n,).
        pairs: Target, predicted class and how often among all N, (P, 3), the most frequent first.
        per_class: Of each class how often among all N it was the target, was predicted, and both, (K, 3).
        calibration: Of each of ``CALIBRATION_BINS`` bins of the predicted probability over all N: samples,
            sum of probabilities, correct ones, (bins, 3).
        mistakes: Indices of the mistakes to show, (M,); picture i of ``mistakes/`` is of the i-th.
        confident: Which of them were chosen as the most confident, (M,); the others have the largest loss.
    """

    part: str
    samples: int
    classes: int
    class_names: tuple[str, ...]
    index: Array
    target: Array
    predicted: Array
    predicted_probability: Array
    target_probability: Array
    loss: Array
    pairs: Array
    per_class: Array
    calibration: Array
    mistakes: Array
    confident: Array


_ARRAYS = tuple(field.name for field in fields(Predictions))[4:]


def picture_of(number: int) -> str:
    """Return the file of a mistake's picture in a run's folder."""
    return f"{MISTAKES}/{number:02}.png"


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """Return at most ``most`` of ``count`` places, evenly spread."""
    if count <= most:
        return np.arange(count)
    return np.arange(most) * count // most


def write_predictions(tree: Tree, predictions: Predictions) -> None:
    """Write the file.

    Raises:
        OSError: It cannot be written.
    """
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        schema=np.int64(SCHEMA),
        part=np.array(predictions.part),
        samples=np.int64(predictions.samples),
        classes=np.int64(predictions.classes),
        class_names=np.array([name[:_MAX_NAME] for name in predictions.class_names], dtype=str),
        **{name: getattr(predictions, name) for name in _ARRAYS},
    )
    tree.write(TEST_PREDICTIONS, [buffer.getbuffer()])


def read_predictions(tree: Tree) -> Predictions:
    """Read the file of a run, which may come from anybody.

    Raises:
        FileNotFoundError: There is none.
        OSError: It cannot be read, or is too large.
        DamagedArchiveError: It is not as a run writes it.
    """
    arrays = read_archive(tree.read(TEST_PREDICTIONS, MAX_FILE_BYTES))
    try:
        if int(arrays["schema"]) != SCHEMA:
            raise DamagedArchiveError(f"it is of schema {arrays['schema']}; this version reads {SCHEMA}")
        names = arrays["class_names"]
        # Before a text is made of each.
        _expect(_is(names, "U", 1) and len(names) <= MAX_NAMED, "class_names")
        found = Predictions(
            part=str(arrays["part"])[:_MAX_NAME],
            samples=int(arrays["samples"]),
            classes=int(arrays["classes"]),
            class_names=tuple(names.astype(f"U{_MAX_NAME}").tolist()),
            **{name: arrays[name] for name in _ARRAYS},
        )
        _check(found)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedArchiveError(f"it is not as a run writes it ({error})") from error
    return found


def _check(found: Predictions) -> None:
    """Check what the rest of the program relies on.

    Raises:
        ValueError: A length, a kind or a number is not what it may be.
    """
    n, K = len(found.index), found.classes  # noqa: N806 - as above
    classes = found.classes > 0
    _expect(0 < n <= MAX_SAMPLES and n <= found.samples <= _LARGEST, "samples")
    _expect(0 <= K <= _LARGEST and len(found.class_names) in (0, K), "class_names")
    _expect(_is(found.index, "iu", 1) and found.index.min() >= 0, "index")
    if classes:
        for name, array in (("target", found.target), ("predicted", found.predicted)):
            _expect(_is(array, "iu", 1, n) and array.min() >= 0 and array.max() < K, name)
    else:
        _expect(_is(found.target, "f", 2, n) and 1 <= found.target.shape[1] <= MAX_COLUMNS, "target")
        _expect(_is(found.predicted, "f", 2, n) and found.predicted.shape == found.target.shape, "predicted")
    for name in ("predicted_probability", "target_probability"):
        _expect(_is(getattr(found, name), "f", 1, n if classes else 0), name)
    _expect(_is(found.loss, "f", 1, n), "loss")
    _expect(_is_counts(found.pairs) and len(found.pairs) <= MAX_PAIRS, "pairs")
    _expect(not len(found.pairs) or bool((found.pairs[:, :2] < K).all()), "pairs")
    _expect(
        _is_counts(found.per_class) and len(found.per_class) == (K if K <= MAX_CLASSES else 0), "per_class"
    )
    _expect(_is(found.calibration, "f", 2) and found.calibration.shape[1] == 3, "calibration")  # noqa: PLR2004 - as above
    _expect(len(found.calibration) == (CALIBRATION_BINS if classes else 0), "calibration")
    _expect(bool(((found.calibration >= 0) & (found.calibration <= _LARGEST)).all()), "calibration")
    _expect(_is(found.mistakes, "iu", 1) and len(found.mistakes) <= MAX_MISTAKES, "mistakes")
    _expect(_is(found.confident, "b", 1, len(found.mistakes)), "confident")


def _expect(is_so: bool, name: str) -> None:  # noqa: FBT001 - what is expected
    if not is_so:
        raise ValueError(name)


def _is(array: Array, kinds: str, dims: int, length: int | None = None) -> bool:
    return array.dtype.kind in kinds and array.ndim == dims and length in (None, len(array))


def _is_counts(array: Array) -> bool:
    is_table = _is(array, "iu", 2) and array.shape[1] == 3  # noqa: PLR2004 - as documented
    return is_table and bool(((array >= 0) & (array <= _LARGEST)).all())
