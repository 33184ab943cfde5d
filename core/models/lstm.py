"""A long short-term memory over token ids or sequences of numbers.

Source: Hochreiter and Schmidhuber 1997, "Long short-term memory", doi:10.1162/neco.1997.9.8.1735.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .data_shape import Shape
from .sequence_input import PadId, counted_positions, embedding


class Lstm(nn.Module):
    """Embedding, LSTM, a linear layer; what only fills up is never read.

    Args:
        embed: Makes (B, L, D) of the inputs.
        outputs: Classes, or numbers to predict.
        embedding_dim: D.
        hidden_size: Of the state, in each direction.
        num_layers: On top of each other.
        bidirectional: Read from both ends.
        dropout: Between layers, and before the last one, in training.
        per_position: Outputs are of each position, not of the state at the end.
        pad_id: Token that fills up, where no mask is given.
    """

    def __init__(
        self,
        embed: nn.Module,
        outputs: int,
        *,
        embedding_dim: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
        per_position: bool,
        pad_id: int | None,
    ) -> None:
        super().__init__()
        self.per_position, self.pad_id = per_position, pad_id
        self.embed = embed
        self.lstm = nn.LSTM(
            embedding_dim,
            hidden_size,
            num_layers,
            batch_first=True,
            # One layer has nothing between, which torch would warn of.
            dropout=dropout if num_layers > 1 else 0.0,
            bidirectional=bidirectional,
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size * (1 + bidirectional), outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return (B, outputs), or (B, outputs, L) where outputs are of each position.

        Args:
            input_ids: (B, L) token ids, or numbers (B, L, F) where it was built for such.
            attention_mask: (B, L), 0 where a token only fills up, at either end or between.
        """
        mask = counted_positions(input_ids, attention_mask, self.pad_id)
        hidden, last = self._read(self.embed(input_ids), mask)
        if self.per_position:
            outputs: Tensor = self.head(self.dropout(hidden)).transpose(1, 2)
            return outputs
        ends = last[-2:] if self.lstm.bidirectional else last[-1:]
        state: Tensor = self.head(self.dropout(ends.transpose(0, 1).flatten(1)))
        return state

    def _read(self, vectors: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the hidden states, (B, L, H), and the last of each layer and direction, (layers, B, H)."""
        # On torch's device meta nothing has a length, and the sizes of layers are the same.
        if mask is None or mask.is_meta:
            hidden, (last, _) = self.lstm(vectors)
            return hidden, last
        # What counts comes first, in its order; afterwards each goes back to its place.
        order = (~mask).int().argsort(dim=1, stable=True)
        moved = vectors.gather(1, order[:, :, None].expand_as(vectors))
        packed = pack_padded_sequence(moved, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        states, (last, _) = self.lstm(packed)
        hidden, _ = pad_packed_sequence(states, batch_first=True, total_length=mask.shape[1])
        places = order.argsort(1)[:, :, None].expand_as(hidden)
        return hidden.gather(1, places), last


def lstm(
    shape: Shape,
    *,
    embedding_dim: Annotated[int, Field(ge=1, le=8192)] = 64,
    hidden_size: Annotated[int, Field(ge=1, le=8192)] = 128,
    num_layers: Annotated[int, Field(ge=1, le=32)] = 1,
    bidirectional: bool = False,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    vocab_size: Annotated[int, Field(ge=1, le=2**24)] | None = None,
    pad_id: PadId = None,
) -> nn.Module:
    """Build an LSTM; of data with a class at each position it gives outputs (B, K, L).

    Args:
        shape: Token ids (L,), alone or as ``input_ids`` beside ``attention_mask``, or numbers (L, F).
        embedding_dim: Numbers in the vector of a token.
        hidden_size: Of the state, in each direction.
        num_layers: On top of each other.
        bidirectional: Read from both ends.
        dropout: Share dropped between layers, and before the last one, in training.
        vocab_size: Different tokens; by default those of the data.
        pad_id: Token that fills up sequences, where the data bring no mask.

    Raises:
        DataError: The data hold no sequences.
    """
    return Lstm(
        embedding(shape, "lstm", embedding_dim, vocab_size, pad_id),
        shape.outputs,
        embedding_dim=embedding_dim,
        hidden_size=hidden_size,
        num_layers=num_layers,
        bidirectional=bidirectional,
        dropout=dropout,
        per_position=shape.positions,
        pad_id=pad_id if shape.tokens is not None else None,
    )
