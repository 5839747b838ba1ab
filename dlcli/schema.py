"""What settings and the cards of models are made of: their base class, and words that both use."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
TaskKind = Literal["classification", "multilabel", "regression", "forecast", "seq2seq", "embedding"]


class Frozen(BaseModel):
    """A model whose instances are immutable and whose unknown keys are an error.

    Its validator is built when it is first needed: ``--help`` needs the fields alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
