"""Detection of text encodings."""

from __future__ import annotations

import codecs
import re

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_SAMPLE_BYTES = 2**16
_HIGH = rb"[\x80-\xff]"


def decode_text(raw: bytes) -> tuple[str, str]:
    """Decode bytes of unknown encoding; return the text and the encoding.

    A byte-order mark decides, else UTF-8 if it is valid. If most bytes above 127
    are isolated, the text is Western: ISO-8859-1, or Windows-1252 where bytes 128 to 159 occur.
    Otherwise charset-normalizer guesses the encoding.
    """
    for mark, codec, name in _BYTE_ORDER_MARKS:
        if raw.startswith(mark):
            try:
                return raw.decode(codec), name
            except UnicodeDecodeError:
                break
    try:
        return raw.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError:
        pass
    # The sample starts at the first line with such a byte: a long table may begin with numbers.
    first_high = re.search(_HIGH, raw)
    start = raw.rfind(b"\n", 0, first_high.start() if first_high else 0) + 1
    sample = raw[start : start + _SAMPLE_BYTES]
    high = len(re.findall(_HIGH, sample))
    isolated = len(re.findall(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])", sample))
    if 2 * isolated < high:
        guessed = _guess(raw, sample)
        if guessed is not None:
            return guessed
    if not re.search(rb"[\x80-\x9f]", raw):
        return raw.decode("iso-8859-1"), "ISO-8859-1"
    try:
        return raw.decode("cp1252"), "Windows-1252"
    except UnicodeDecodeError:
        return raw.decode("iso-8859-1"), "ISO-8859-1"


def _guess(raw: bytes, sample: bytes) -> tuple[str, str] | None:
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    if best is None:
        return None
    try:
        return raw.decode(best.encoding), best.encoding
    except UnicodeDecodeError:
        return raw.decode(
            best.encoding, errors="replace"
        ), f"{best.encoding} (with unreadable characters)"
