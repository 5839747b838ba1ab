"""Description of a text input."""

from __future__ import annotations

from dlcli import wording
from dlcli.data.kinds import Description, Facts
from dlcli.task import TextInput

_TOKENIZERS = {
    "word": "words and punctuation marks",
    "bpe": "byte pairs",
    "file": "of the pretrained weights",
}


def describe(spec: TextInput) -> Description:
    """Describe the tokenizer, the vocabulary and the maximum length."""
    return Description(text_facts(spec))


def text_facts(spec: TextInput) -> Facts:
    """Return (name, value) pairs of one text input."""
    # The file's own normalizer decides about the case.
    case = ", lowercase" if spec.lowercase else ", case-sensitive"
    case = "" if spec.tokenizer == "file" else case
    facts: Facts = (
        ("tokens", f"{_TOKENIZERS[spec.tokenizer]}{case}"),
        ("vocabulary", wording.plural(spec.vocab_size, "entry")),
        ("max length", f"{wording.plural(spec.max_length, 'token')}; longer texts are truncated"),
    )
    if spec.pair:
        facts = (*facts, ("pairs", "two texts, encoded and truncated together, the longer one first"))
    return facts if not spec.column else (*facts, ("columns" if spec.pair else "column", spec.column))
