"""The embedding of token ids that all models of texts share.

B texts, T tokens, D numbers a token, V tokens in the vocabulary.
"""

from __future__ import annotations

import torch
from torch import nn

from dlcli.task import UNKNOWN


class TokenEmbedding(nn.Module):
    """Ids (B, T) to vectors (B, T, D), drawn from N(0, 1/D) so that a vector's length is about 1.

    While training, ``token_dropout`` is the share of tokens that are replaced by UNKNOWN: its vector
    must be learned too, for words that only turn up later. With a ``vector_dim`` other than ``dim`` the
    table has vectors of that length, and a linear layer without bias projects them.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        dropout: float,
        token_dropout: float,
        vector_dim: int | None = None,
    ) -> None:
        super().__init__()
        width = dim if vector_dim is None else vector_dim
        self.table = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.table.weight, std=width**-0.5)
        self.projection = None if width == dim else nn.Linear(width, dim, bias=False)
        if self.projection is not None:
            nn.init.normal_(self.projection.weight, std=dim**-0.5)  # keeps the length of a vector
        self.token_dropout = token_dropout
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64 (B, T) to (B, T, D)."""
        if self.training and self.token_dropout > 0:
            lost = torch.rand(tokens.shape, device=tokens.device) < self.token_dropout
            tokens = torch.where(lost, UNKNOWN, tokens)
        x = self.table(tokens)
        out: torch.Tensor = self.dropout(x if self.projection is None else self.projection(x))
        return out

    @torch.no_grad()
    def set_rows(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        """Give the tokens ``ids`` (K,) the vectors ``rows`` (K, width of the table)."""
        self.table.weight.index_copy_(0, ids, rows.to(self.table.weight))
