"""Words that every screen and message spells alike."""

import pytest

from dlcli.wording import first_line, listed, plural, printable, size


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (74_300, "74.3 kB"), (999_400, "999 kB"),
     (999_600, "1 MB"), (2_880_000, "2.88 MB"), (44_800_000, "44.8 MB"), (123_456_789, "123 MB"),
     (1_500_000_000, "1.5 GB")],
)  # fmt: skip
def test_sizes_have_three_digits_and_decimal_units(size_bytes: int, text: str) -> None:
    assert size(size_bytes) == text


def test_plurals_and_lists() -> None:
    assert [plural(n, "class") for n in (1, 2000)] == ["1 class", "2,000 classes"]
    assert plural(3, "category") == "3 categories"
    assert plural(2, "series") == "2 series"
    assert listed(["a", "b", "c"], 2) == "a, b, and 1 more"
    assert listed(["a", "b"], 2) == "a, b"


def test_the_first_line_of_an_exception_without_a_message_is_its_type() -> None:
    assert first_line(ValueError("\none\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"


def test_control_characters_are_escaped_and_joiners_stay() -> None:
    assert printable("a\x1b[2Jb\u202ec\n") == "a\\x1b[2Jb\\u202ec\\n"
    shrug = "🤷‍♀️"  # joined by U+200D
    assert printable(f"{shrug}\t") == f"{shrug}\\t"
