"""Tokenizers: what a word is, which ids they get, and that both kinds spell a text back."""

from __future__ import annotations

import builtins
import sys
import unicodedata
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcli.config import DataConfig
from dlcli.data.notices import messages
from dlcli.data.text.tokens import (
    decode,
    default_length,
    encode,
    encode_all,
    fit_text,
)
from dlcli.data.text.words import join_words, split_words
from dlcli.errors import DlcliError, UsageError
from dlcli.task import END, PAD, SPECIAL_TOKENS, START, UNKNOWN, TextInput

TEXTS = ["the cat sat on the mat .", "the dog ate the cat !", "a dog, a cat, a bird"]


def fitted(texts: list[str] | None = None, **values: Any) -> TextInput:
    return fit_text(TEXTS if texts is None else texts, DataConfig.model_validate(values))[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's 3.5% of 1,000.50 (top10)", ["it's", "3.5", "%", "of", "1,000.50", "(", "top10", ")"]),
        ("don\u2019t", ["don't"]),
        ("cafe\u0301 caf\u00e9", ["caf\u00e9", "caf\u00e9"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("東京へ。", ["東", "京", "へ", "。"]),
        ("a_b 3rd 1.5x", ["a", "_", "b", "3rd", "1", ".", "5x"]),
        ("\ufeffzero\u200bwidth\x00null", ["zerowidth", "null"]),
        ("<pad> </s>", ["<", "pad", ">", "<", "/", "s", ">"]),
        (" \t\n", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert split_words(text) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_split_words_keeps_visible_characters_and_is_idempotent(text: str) -> None:
    found = split_words(text)
    assert split_words(" ".join(found)) == found
    assert not any(word.strip() == "" for word in found)
    kept = Counter("".join(split_words(text, lowercase=False)))
    there = Counter(c for c in unicodedata.normalize("NFC", text) if c.isalnum())
    assert all(kept[c] == count for c, count in there.items())


def test_lowercase_is_a_setting() -> None:
    assert split_words("Cat CAT", lowercase=False) == ["Cat", "CAT"]
    upper = fitted(["Cat cat"], lowercase=False)
    assert set(upper.vocabulary) - set(SPECIAL_TOKENS) == {"Cat", "cat"}
    assert decode(encode("Cat", upper), upper) == "Cat"


def test_vocabulary_is_special_tokens_then_frequency_then_alphabet() -> None:
    spec = fitted()
    assert spec.vocabulary[: len(SPECIAL_TOKENS)] == SPECIAL_TOKENS
    assert spec.vocabulary[4:9] == ("the", "a", "cat", ",", "dog")
    assert fitted(list(reversed(TEXTS))).vocabulary == spec.vocabulary


def test_vocab_size_and_min_count_leave_the_rest_unknown() -> None:
    assert fitted(vocab_size=8).vocabulary[4:] == ("the", "a", "cat", ",")
    often = fitted(min_count=2)
    assert set(often.vocabulary[4:]) == {"the", "a", "cat", ",", "dog"}
    assert encode("the mat", often).tolist() == [often.vocabulary.index("the"), UNKNOWN]


def test_ids_are_truncated_counted_and_never_empty() -> None:
    spec = fitted(max_length=3)
    encoded = encode_all(["the cat sat on", "", " \n", "the"], spec)
    assert [ids.shape for ids in encoded.ids] == [(3,), (1,), (1,), (1,)]
    assert all(ids.dtype == np.int64 for ids in encoded.ids)
    assert encoded.ids[1].tolist() == [UNKNOWN]
    assert (encoded.truncated, encoded.empty) == (1, 2)
    said = " ".join(messages(encoded.notices(spec)))
    assert "1 of 4 texts are longer than 3 tokens" in said
    assert "2 of 4 texts are empty" in said


def test_the_default_length_truncates_only_the_longest_of_long_texts() -> None:
    assert default_length(np.array([3, 5, 90])) == 90
    assert default_length(np.array([100] * 999 + [400])) == 128
    assert default_length(np.array([300] * 999 + [400])) == 300
    assert default_length(np.array([2_000, 3_000])) == 512
    spec, notices = fit_text([*["one two"] * 999, "w " * 400], DataConfig())
    assert spec.max_length == 128
    assert any("1 of 1,000 training texts are longer than 128 tokens" in m for m in messages(notices))


def test_training_texts_without_a_word_are_refused() -> None:
    with pytest.raises(DlcliError, match="are empty"):
        fitted(["", "  "])


def test_decoding_stops_at_end_and_skips_special_tokens() -> None:
    spec = fitted()
    ids = encode("the dog ate", spec).tolist()
    assert decode([START, *ids, END, *ids, PAD], spec) == "the dog ate"
    assert decode([PAD, START, END], spec) == ""


@pytest.mark.parametrize(
    "text",
    [
        'he said "no, never" (twice) to a/b.',
        "it's 3.5% of state-of-the-art!",
        "don't 'quote' me: well…",
        "東京へ行く。",
        "«oui» ¿qué?",
    ],
)
def test_words_are_joined_as_in_print(text: str) -> None:
    assert join_words(split_words(text)) == text


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_byte_pairs_decode_to_the_encoded_text(text: str) -> None:
    spec = _byte_pairs()
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    assert decode(encode(text, spec), spec) == (text or "<unk>")


def test_no_text_is_encoded_as_special_tokens() -> None:
    spec = _byte_pairs()
    assert spec.vocabulary[: len(SPECIAL_TOKENS)] == SPECIAL_TOKENS
    ids = encode("a </s> b <pad>", spec)
    assert not set(ids.tolist()) & {PAD, UNKNOWN, START, END}
    assert encode("", spec).tolist() == [UNKNOWN]
    assert decode([START, *ids.tolist(), END, 7], spec) == "a </s> b <pad>"


def test_byte_pairs_are_the_same_each_time_and_after_json() -> None:
    one, two = fitted(tokenizer="bpe", vocab_size=300), fitted(tokenizer="bpe", vocab_size=300)
    assert one == two
    again = TextInput.model_validate_json(one.model_dump_json())
    assert encode("the unseen çat", again).tolist() == encode("the unseen çat", one).tolist()
    assert one.vocab_size <= 300


def test_a_damaged_byte_pair_tokenizer_is_refused() -> None:
    spec = _byte_pairs()
    with pytest.raises(DlcliError, match="cannot be read"):
        encode("a", spec.model_copy(update={"merges": "{}"}))
    with pytest.raises(DlcliError, match="does not match"):
        encode("a", spec.model_copy(update={"vocabulary": spec.vocabulary[:-1]}))


def test_byte_pairs_need_room_for_the_bytes() -> None:
    with pytest.raises(UsageError, match=r"vocab_size = 100"):
        fitted(tokenizer="bpe", vocab_size=100)


def test_without_the_library_byte_pairs_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "tokenizers":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.split(".")[0] == "tokenizers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DlcliError) as info:
        fitted(tokenizer="bpe")
    assert 'pip install "dlcli[text]"' in (info.value.hint or "")


_CACHE: list[TextInput] = []


def _byte_pairs() -> TextInput:
    if not _CACHE:
        _CACHE.append(fitted(tokenizer="bpe", vocab_size=300, lowercase=False, max_length=500))
    return _CACHE[0]
