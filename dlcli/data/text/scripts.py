"""Scripts that put no spaces between words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_BY_NAME = {
    "Thai": "\u0e00-\u0e7f",
    "Lao": "\u0e80-\u0eff",
    "Burmese": "\u1000-\u109f",
    "Khmer": "\u1780-\u17ff",
    "Japanese": "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f",  # kana
    "Chinese": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
}
# Character ranges of a regular expression.
UNSPACED_SCRIPTS = "".join(_BY_NAME.values())


def unspaced_share(texts: Iterable[str]) -> tuple[float, str]:
    """Return the share of letters whose script has no spaces between words, and the commonest's name."""
    counts: Counter[str] = Counter()
    letters = 0
    for text in texts:
        letters += sum(map(str.isalpha, text))
        if not text.isascii():
            for name, ranges in _BY_NAME.items():
                counts[name] += len(re.findall(f"[{ranges}]", text))
    if not counts.total():
        return 0.0, ""
    if counts["Japanese"]:  # ideographs among kana
        counts["Japanese"] += counts.pop("Chinese", 0)
    return min(1.0, counts.total() / max(letters, 1)), counts.most_common(1)[0][0]
