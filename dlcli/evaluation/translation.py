"""Decoded texts of a sequence model, and their BLEU against the references."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dlcli.data.base import Inputs, Listed, Reader
from dlcli.data.text.tokens import decode as detokenize
from dlcli.errors import UsageError
from dlcli.evaluation.decoding import corpus_bleu, decode, next_logits
from dlcli.events import Emit, EvalProgress
from dlcli.formats.base import Outputs
from dlcli.task import PairsInput, TaskSpec

_BATCH = 64


def check_beams(task: TaskSpec, beams: int) -> None:
    """Raises: UsageError for beam search with a model that is not sequence-to-sequence."""
    if beams > 1 and task.kind != "seq2seq":
        raise UsageError(f"--beams {beams} is for translation, and this model does {task.kind}")


def translate(
    predict: Callable[[Inputs], Outputs], inputs: Inputs, task: TaskSpec, *, beams: int = 1
) -> list[str]:
    """Decode a text for each source; a prefix among the inputs is ignored."""
    assert isinstance(task.input, PairsInput)
    target = task.input.target
    step = next_logits(lambda *tensors: predict(tensors))
    hypotheses = decode(step, inputs[0], inputs[1], max_length=target.max_length, beam=beams)
    return [detokenize(one.ids, target) for one in hypotheses]


def bleu(
    predict: Callable[[Inputs], Outputs],
    reader: Reader,
    task: TaskSpec,
    *,
    split: str,
    beams: int,
    emit: Emit,
) -> float:
    """BLEU (0 to 100) of decoded texts against those of the split.

    References are the raw texts, in lower case where the vocabulary is. Raises: DlcliError when
    sacrebleu is not installed.
    """
    assert isinstance(task.input, PairsInput)
    assert isinstance(reader.samples.items, Listed)
    references = [str(target) for _, target in reader.samples.items.values]
    if task.input.target.lowercase:
        references = [text.lower() for text in references]
    texts: list[str] = []
    for start in range(0, len(reader), _BATCH):
        inputs, readable = reader.read(np.arange(start, min(start + _BATCH, len(reader))))
        assert len(readable) == len(inputs[0])
        texts += translate(predict, inputs, task, beams=beams)
        emit(EvalProgress(split=f"{split}, decoding", done=len(texts), total=len(reader)))
    return corpus_bleu(texts, references)
