"""Read texts: a row a text, and a class or number for each, or the next token to predict."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from pydantic import Field
from torch import Tensor

from ..engine.data import Dataset
from ..engine.padded_data import PaddedDataset
from ..engine.preprocessing import read_state
from ..hooks.errors import DataError, shorten
from ..hooks.trees import Tree
from ..hooks.types import IGNORED
from ..plugins.number_words import counted
from .preparation import Fraction, Limit, Parts, SplitSeed
from .row_file import Rows, to_text
from .row_parts import read_row_parts
from .target_column import TargetColumn, find_target

#: What the inputs are called.
IDS, MASK = "input_ids", "attention_mask"
#: Tokens that a trained vocabulary begins with: what fills up, and what is not in it.
_PAD, _UNKNOWN = "[PAD]", "[UNK]"
_MOST_TOKENS = 65536
_MOST_BYTES = 32 << 20
#: Names under which the vocabularies of others have their token that fills up.
_PADS = (_PAD, "<pad>", "<|endoftext|>")
TextTask = Literal["auto", "classification", "regression", "next_token"]
Padding = Literal["batch", "max_length"]


class TextState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known to make samples of texts.

    Attributes:
        text: The column of texts.
        target: The column to predict; None: the next token is.
        length: Tokens of a sample.
        pad_id: Token that fills up.
        tokenizer: As the tokenizers library writes one.
        padding: Whether a batch is as long as its longest text, or all are of ``length``.
    """

    text: str
    target: TargetColumn | None
    length: Annotated[int, msgspec.Meta(ge=1, le=_MOST_TOKENS)]
    pad_id: Annotated[int, msgspec.Meta(ge=0, le=2**24)]
    tokenizer: str
    padding: Padding = "max_length"


def text(
    *,
    path: Path,
    text: str = "text",
    target: str = "label",
    task: TextTask = "auto",
    tokenizer: Literal["words", "bpe"] | Path = "words",
    vocab_size: Annotated[int, Field(ge=2, le=2**20)] = 10_000,
    lowercase: bool = True,
    max_length: Annotated[int, Field(ge=1, le=_MOST_TOKENS - 1)] = 128,
    padding: Padding = "batch",
    group_by_length: bool = True,
    validation_path: Path | None = None,
    test_path: Path | None = None,
    test_fraction: Fraction = 0.2,
    split_seed: SplitSeed = 0,
    limit: Limit = None,
) -> Parts:
    """Read a CSV, TSV, JSON lines or Parquet file with a text a row, or a folder of one for each part.

    Inputs are ``input_ids``, (L,) int64, and ``attention_mask``, 0 where a token only fills up.

    Args:
        path: The file, or a folder with ``train.csv`` and ``val.csv`` or ``test.csv``.
        text: Column of the texts.
        target: Column to predict.
        task: ``auto`` is what the job's loss is for; ``next_token`` predicts each token from those before
            it, and needs no target.
        tokenizer: ``words`` or ``bpe`` (bytes that come together often), trained on the texts that are
            trained on; or a ``tokenizer.json``.
        vocab_size: Tokens of a trained one, at most.
        lowercase: Of a trained one: whether case makes no difference.
        max_length: Tokens of a text, at most; the rest is cut off.
        padding: ``batch``: to the longest text of each batch; ``max_length``: to one length, for models that
            take no other.
        group_by_length: Whether an epoch puts texts of like lengths into a batch.
        validation_path: File to judge by.
        test_path: File to test on at the end.
        test_fraction: Share of the test samples, if there are no parts.
        split_seed: Which samples these are.
        limit: At most so many samples of each part.

    Raises:
        DataError: A file, column or cell is missing, or does not fit.
    """
    found = read_row_parts(path, validation_path, test_path)
    rows, train = found.rows, found.ranges["train"]
    rows.column(text, "text")
    column = None if task == "next_token" else find_target(rows, target, task, train)
    loaded = _load(tokenizer) if isinstance(tokenizer, Path) else None
    learner = TextLearner(
        rows,
        TextChoice(text, column, max_length, padding, group_by_length and padding == "batch"),
        loaded,
        (str(tokenizer), vocab_size, lowercase),
    )
    return found.for_learner(
        learner, column, source=path, test_fraction=test_fraction, split_seed=split_seed, limit=limit
    )


@dataclass(frozen=True, slots=True)
class TextChoice:
    """What a job says of its texts.

    Attributes:
        text: The column of texts.
        target: The column to predict; None: the next token is.
        max_length: Tokens of a text, at most.
        padding: As the option.
        by_length: Whether texts of like lengths come together.
    """

    text: str
    target: TargetColumn | None
    max_length: int
    padding: Padding
    by_length: bool


class TextLearner:
    """Learns a vocabulary, and how long texts are.

    Args:
        rows: All.
        choice: What the job says of them.
        loaded: A tokenizer that is there already.
        trained: Otherwise kind, size of the vocabulary, and whether case makes no difference.
    """

    reader = "text"

    def __init__(
        self,
        rows: Rows,
        choice: TextChoice,
        loaded: str | None,
        trained: tuple[str, int, bool],
    ) -> None:
        self.rows, self._choice = rows, choice
        self._loaded, self._trained = loaded, trained

    def learn(self, indices: Tensor) -> Mapping[str, Any]:
        """Return a ``TextState`` as plain data."""
        choice = self._choice
        texts = _texts(self.rows, choice.text, indices)
        written = self._loaded or _train(texts, *self._trained)
        tokenizer = _to_tokenizer(written)
        longest = max((len(found.ids) for found in tokenizer.encode_batch(texts)), default=1)
        # Of the next tokens there is one fewer than of tokens.
        length = max(1, min(longest, choice.max_length)) + (choice.target is None)
        state = TextState(choice.text, choice.target, length, _pad_id(tokenizer), written, choice.padding)
        found: dict[str, Any] = msgspec.to_builtins(state)
        return found

    def encoder(self, state: Mapping[str, Any]) -> TextEncoder:
        """Return what makes samples."""
        return TextEncoder(state, by_length=self._choice.by_length)


class TextEncoder:
    """Makes token ids of texts.

    Args:
        state: As ``TextLearner`` gives it; of a run, which may be anybody's.
        by_length: Whether an epoch of its samples puts texts of like lengths into a batch.

    Raises:
        DataError: It is no such.
    """

    def __init__(self, state: Mapping[str, Any], *, by_length: bool = False) -> None:
        self._state, self._by_length = read_state(state, TextState), by_length
        self._tokenizer = _to_tokenizer(self._state.tokenizer)
        # Numbers of a vocabulary may have gaps.
        self._tokens = int(max(self._tokenizer.get_vocab().values(), default=0)) + 1
        self._cut = 0

    @property
    def values(self) -> Mapping[str, tuple[int, ...]]:
        """The size of the vocabulary."""
        return {IDS: (self._tokens,), MASK: (2,)}

    @property
    def learned(self) -> str:
        """The size of the vocabulary, and the length of samples."""
        most = "at most " if self._state.padding == "batch" else ""
        return f"{self._tokens:,} tokens in the vocabulary; samples of {most}{self._state.length:,} tokens"

    @property
    def gaps(self) -> tuple[str, ...]:
        """How many texts were cut."""
        return (f"{counted(self._cut, 'text')} cut to {self._state.length:,} tokens",) if self._cut else ()

    def inputs(self, rows: Rows, indices: Tensor) -> Tree:
        """Return token ids and mask, (M, L) int64 each.

        L is that of the longest where a batch is as long as that; not where each position has an output, so
        that those of several calls are of one shape.
        """
        ids, mask = self._encode(rows, indices)
        end = self._state.length - (self._state.target is None)
        if self._state.target is not None and self._state.padding == "batch":
            end = max(1, int(mask.sum(1).max()))
        return {IDS: ids[:, :end], MASK: mask[:, :end]}

    def samples(self, rows: Rows, indices: Tensor) -> Dataset:
        """Return inputs and targets; of next tokens those at each position, where one comes."""
        target = self._state.target
        ids, mask = self._encode(rows, indices)
        kind: Callable[..., Dataset] = Dataset
        if self._state.padding == "batch":
            kind = functools.partial(PaddedDataset, lengths=mask.sum(1), by_length=self._by_length)
        if target is not None:
            return target.dataset({IDS: ids, MASK: mask}, rows, indices, kind)
        targets = torch.where(mask[:, 1:].bool(), ids[:, 1:], IGNORED)
        return kind({IDS: ids[:, :-1], MASK: mask[:, :-1]}, targets, self._tokens)

    def _encode(self, rows: Rows, indices: Tensor) -> tuple[Tensor, Tensor]:
        length = self._state.length
        found = self._tokenizer.encode_batch(_texts(rows, self._state.text, indices))
        ids = torch.full((len(found), length), self._state.pad_id, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, item in enumerate(found):
            tokens = item.ids[:length]
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
            mask[row, : len(tokens)] = 1
            self._cut += len(item.ids) > length
        return ids, mask


def _texts(rows: Rows, name: str, indices: Tensor) -> list[str]:
    cells = rows.column(name, "text")
    found = [to_text(cells[i]) for i in indices.tolist()]
    missing = next((i for i, value in zip(indices.tolist(), found, strict=True) if value is None), None)
    if missing is not None:
        raise DataError(
            f"{rows.where(missing)}: column '{name}' holds no text; remove the row, or fill it in"
        )
    return [value for value in found if value is not None]


def _import_tokenizers() -> Any:
    try:
        import tokenizers  # noqa: PLC0415 - an extra, which nobody else waits for
    except ImportError:
        raise DataError(
            "texts are made into tokens by tokenizers, which is not installed: pip install 'ringfence[text]'"
        ) from None
    return tokenizers


def _train(texts: list[str], kind: str, vocab_size: int, lowercase: bool) -> str:  # noqa: FBT001 - the option itself
    """Return a tokenizer with a vocabulary of ``texts``."""
    library = _import_tokenizers()
    tokens = [_PAD, _UNKNOWN]
    if kind == "words":
        made = library.Tokenizer(library.models.WordLevel(unk_token=_UNKNOWN))
        made.pre_tokenizer = library.pre_tokenizers.Whitespace()
        trainer = library.trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=tokens, show_progress=False
        )
    else:
        made = library.Tokenizer(library.models.BPE(unk_token=_UNKNOWN))
        made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=tokens,
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    steps = [library.normalizers.NFC(), *([library.normalizers.Lowercase()] if lowercase else [])]
    made.normalizer = library.normalizers.Sequence(steps)
    made.train_from_iterator(texts, trainer)
    written: str = made.to_str()
    return written


def _load(path: Path) -> str:
    """Return what a ``tokenizer.json`` holds."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise DataError(f"{path}: has more than {_MOST_BYTES:,} bytes; expected a tokenizer.json")
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text in UTF-8; expected a tokenizer.json") from error
    except OSError as error:
        raise DataError(f"{path}: option 'tokenizer' cannot be read: {error.strerror}") from error


@functools.lru_cache(2)
def _to_tokenizer(written: str) -> Any:
    library = _import_tokenizers()
    try:
        made = library.Tokenizer.from_str(written)
    # The library raises plain Exception of what it cannot read.
    except Exception as error:
        raise DataError(f"the tokenizer cannot be read: {shorten(str(error), 200)}") from error
    # Lengths are ours to choose, whatever its own are.
    made.no_padding()
    made.no_truncation()
    return made


def _pad_id(tokenizer: Any) -> int:
    found = [tokenizer.token_to_id(name) for name in _PADS]
    return next((number for number in found if number is not None), 0)
