"""Files of word vectors: which rows belong to which tokens, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dlcli.data.text.word_vectors import WordVectors, read_word_vectors
from dlcli.errors import DlcliError
from dlcli.task import SPECIAL_TOKENS, TextInput

FIRST = len(SPECIAL_TOKENS)
WORDS = ("sun", "snow", "ice", "5", "wind")
TABLE = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def spec(words: str, *, lowercase: bool = True) -> TextInput:
    vocabulary = (*SPECIAL_TOKENS, *words.split())
    return TextInput(vocabulary=vocabulary, max_length=8, lowercase=lowercase)


def lines(*, end: str = "\n", words: tuple[str, ...] = WORDS) -> str:
    rows = zip(words, TABLE, strict=True)
    return "".join(f"{word} {' '.join(map(repr, row.tolist()))}{end}" for word, row in rows)


def by_word(vectors: WordVectors, text: TextInput) -> dict[str, list[float]]:
    pairs = zip(vectors.ids, vectors.rows, strict=True)
    return {text.vocabulary[id_]: row.tolist() for id_, row in pairs}


def write(folder: Path, form: str) -> Path:
    """The same five words in a file of each form."""
    path = folder / "vectors.txt"
    if form == "glove":
        path.write_text(lines())
    elif form == "vec":
        path.write_text("5 3\n" + lines(end=" \n"))  # word2vec ends its lines with a space
    elif form == "tabs":
        path.write_bytes(lines(end="\r\n").replace(" ", "\t").encode())
    else:
        path = folder / "vectors.npy"
        np.save(path, TABLE)
        if form == "npy":
            (folder / "vectors.txt").write_text("\n".join(WORDS) + "\n")
        elif form == "counts":
            (folder / "counts.vocab").write_text("".join(f"{word}\t9\n" for word in WORDS))
        else:
            import polars as pl

            pl.DataFrame({"row": range(5), "word": WORDS}).write_parquet(folder / "index.parquet")
    return path


@pytest.mark.parametrize("form", ["glove", "vec", "tabs", "npy", "counts", "parquet"])
def test_rows_of_known_words_are_read_from_files_of_all_forms(tmp_path: Path, form: str) -> None:
    text = spec("wind rain sun 5")
    vectors = read_word_vectors(write(tmp_path, form), text)
    wanted = {word: TABLE[WORDS.index(word)].tolist() for word in ("wind", "sun", "5")}
    assert by_word(vectors, text) == wanted
    assert vectors.rows.dtype == np.float32
    assert "vectors of 3 numbers for 3 of the 4 words" in vectors.sentence()
    assert "(75%); the others start at random" in vectors.sentence()


@pytest.mark.parametrize(
    ("in_file", "lowercase", "token", "row"),
    [
        ("PARIS paris Paris", True, "paris", 1),  # the spelling of the token
        ("PARIS Paris", True, "paris", 0),  # else the first that differs in case only
        ("PARIS paris Paris", False, "Paris", 2),
        ("PARIS paris", False, "Paris", 1),  # else lower case
        ("paris paris", True, "paris", 0),  # of two the first
    ],
)
def test_the_spelling_of_a_token_comes_before_other_cases(
    tmp_path: Path, in_file: str, lowercase: bool, token: str, row: int
) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("".join(f"{word} {i} 0.5\n" for i, word in enumerate(in_file.split())))
    text = spec(token, lowercase=lowercase)
    assert by_word(read_word_vectors(path, text), text) == {token: [row, 0.5]}


def test_words_of_several_parts_and_special_tokens_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    special = "".join(f"{token} 1 2 3\n" for token in SPECIAL_TOKENS)
    path.write_text(f"{lines()}at name@domain.com 1 2 3\n. . . 4 5 6\n\n{special}")
    text = spec("sun domain")
    assert set(by_word(read_word_vectors(path, text), text)) == {"sun"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sun 1 2 3\nsnow 1 2\n", r"line 2: it has 2 numbers, and the lines before have 3"),
        ("sun 1 2\nsnow 1 2 3\n", r"line 2: it has 3 numbers, and the lines before have 2"),
        ("2 3\nsun 1 2 3\nsnow 1 2\n", r"line 3: it has 2 numbers"),
        ("sun\nsnow\n", r"line 1: it has 0 numbers"),
        ("snow 1 2\nsun 1 nan\n", r"line 2: nan is no finite number"),
        ("sun 1 1e99\n", r"line 1: 1e99 is no finite number of 32 bits"),
        ("sun 1 x2\n", r"line 1: could not convert string to float: .*x2"),
        ("hail 1 2\nfog 3 4\n", r"has none of the 1 words of the vocabulary"),
        ("", r"has none of the 1 words"),
        ("a\0b 1 2\n", r"is no text"),
        ("PK\x03\x04", r"is no text"),
    ],
)
def test_files_with_mistakes_are_refused_in_one_sentence(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text(content)
    with pytest.raises(DlcliError, match=message) as caught:
        read_word_vectors(path, spec("sun"))
    assert "\n" not in caught.value.message
    assert caught.value.hint or "finite" in message


def test_arrays_with_mistakes_are_refused(tmp_path: Path) -> None:
    path, text = tmp_path / "v.npy", spec("sun")

    def refused(message: str) -> None:
        with pytest.raises(DlcliError, match=message):
            read_word_vectors(path, text)

    refused("is no file")
    np.save(path, TABLE)
    refused("needs the file of its words next to it, and there is none")
    (tmp_path / "a.txt").write_text("sun\n")
    refused(r"has 5 rows, and a\.txt 1 words")
    (tmp_path / "b.txt").write_text("sun\n")
    refused(r"there is a\.txt, b\.txt")
    (tmp_path / "v.txt").write_text("\n".join(WORDS))  # of its own name
    assert read_word_vectors(path, text).ids.tolist() == [FIRST]
    broken = TABLE.copy()
    broken[0, 1] = np.inf
    np.save(path, broken)
    refused("row 1: inf is no finite number")
    np.save(path, TABLE[0])
    refused(r"is an array \(3,\) of float32")
    np.save(path, np.array(WORDS, dtype=object), allow_pickle=True)
    refused("is damaged")
    path.write_bytes(b"\x93NUMPY\x01")
    refused("is damaged")
