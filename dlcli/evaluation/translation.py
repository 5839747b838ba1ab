"""What a sequence model writes, and how close it is to the references."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dlcli.data.base import Inputs, Listed, Reader
from dlcli.data.text.tokens import decode as spell
from dlcli.errors import UsageError
from dlcli.evaluation.decoding import corpus_bleu, decode, next_of
from dlcli.events import Emit, EvalProgress
from dlcli.formats.base import Outputs
from dlcli.task import PairsInput, TaskSpec

_BATCH = 64


def check_beams(task: TaskSpec, beams: int) -> None:
    """Beams are for models that write. Raises: UsageError."""
    if beams > 1 and task.kind != "seq2seq":
        raise UsageError(f"--beams {beams} is for translation, and this model does {task.kind}")


def translate(
    answer: Callable[[Inputs], Outputs], inputs: Inputs, task: TaskSpec, *, beams: int = 1
) -> list[str]:
    """The text written for each source; the prefix among the inputs, if any, is not looked at."""
    assert isinstance(task.input, PairsInput)
    target = task.input.target
    step = next_of(lambda *tensors: answer(tensors))
    written = decode(step, inputs[0], inputs[1], max_length=target.max_length, beam=beams)
    return [spell(one.ids, target) for one in written]


def bleu(
    answer: Callable[[Inputs], Outputs],
    reader: Reader,
    task: TaskSpec,
    *,
    split: str,
    beams: int,
    emit: Emit,
) -> float:
    """BLEU (0 to 100) of decoded texts against the split's own, both as the vocabulary spells them.

    References are in the target's own spelling, lowered where the vocabulary is. Raises: DlcliError
    when sacrebleu is not installed.
    """
    assert isinstance(task.input, PairsInput)
    assert isinstance(reader.samples.items, Listed)
    references = [str(target) for _, target in reader.samples.items.values]
    if task.input.target.lowercase:
        references = [text.lower() for text in references]
    written: list[str] = []
    for start in range(0, len(reader), _BATCH):
        inputs, kept = reader.read(np.arange(start, min(start + _BATCH, len(reader))))
        assert len(kept) == len(inputs[0])
        written += translate(answer, inputs, task, beams=beams)
        emit(EvalProgress(split=f"{split}, decoding", done=len(written), total=len(reader)))
    return corpus_bleu(written, references)
