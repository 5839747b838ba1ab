"""A text input in words."""

from __future__ import annotations

from dlcli import wording
from dlcli.data.kinds import Description, Facts
from dlcli.task import TextInput

_TOKENIZERS = {"word": "words and punctuation marks", "bpe": "byte pairs"}


def describe(spec: TextInput) -> Description:
    """Tokenizer, vocabulary and largest length."""
    return Description(text_facts(spec))


def text_facts(spec: TextInput) -> Facts:
    """The facts of one text."""
    case = "lower case" if spec.lowercase else "case kept"
    facts = (
        ("tokens", f"{_TOKENIZERS[spec.tokenizer]}, {case}"),
        ("vocabulary", wording.plural(spec.vocab_size, "entry")),
        ("max length", f"{wording.plural(spec.max_length, 'token')}; a longer text is truncated"),
    )
    return facts if not spec.column else (*facts, ("column", spec.column))
