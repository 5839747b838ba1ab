"""Check that a page is well-formed HTML that needs no network and that screen readers can read."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "link", "br", "input", "hr", "path", "rect"}
MAX_BYTES = 3_000_000


class Page(HTMLParser):
    """A parsed page: its elements, its texts, and what is wrong with them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.problems: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.headings: list[int] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        self.problems += [f"<{tag}> is not closed" for tag in self._open]

    @property
    def text(self) -> str:
        """The visible words, with one blank between them."""
        return " ".join(" ".join(self.texts).split())

    def rows(self) -> list[list[str]]:
        """The texts of the cells of each row of every table."""
        rows = re.findall(r"<tr>(.*?)</tr>", self.html, re.DOTALL)
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
        return [[re.sub(r"<[^>]*>", "", cell).strip() for cell in row] for row in cells]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if len(values) < len(attrs):
            self.problems.append(f"<{tag}> has an attribute twice: {attrs}")
        if "id" in values:
            self.ids.append(str(values["id"]))
        names = ("src", "href", "data", "action", "xlink:href", "srcset", "poster")
        self.targets += [str(value) for name, value in attrs if name in names]
        if handlers := [name for name in values if name.startswith("on")]:
            self.problems.append(f"<{tag}> has handlers: {handlers}")
        self._check_words(tag, values)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self._open.append(tag)

    def _check_words(self, tag: str, values: dict[str, str | None]) -> None:
        if tag in ("script", "iframe", "object", "embed", "form", "base", "link"):
            self.problems.append(f"<{tag}> has no place in a report")
        if tag == "img" and not values.get("alt"):
            self.problems.append("an image without words")
        if tag == "th" and values.get("scope") not in ("col", "row"):
            self.problems.append("a heading of a table without a scope")
        if tag == "svg" and not (values.get("aria-label") or values.get("aria-hidden")):
            self.problems.append("a picture without words")

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self.texts.append(data)


def check_page(path: Path) -> Page:
    """Read a page and assert that nothing is wrong with it."""
    raw = path.read_bytes()
    assert len(raw) < MAX_BYTES
    page = Page(raw.decode("utf-8"))
    assert not page.problems, page.problems
    assert len(set(page.ids)) == len(page.ids), page.ids
    for target in page.targets:
        assert target.startswith(("#", "data:image/png;base64,", "data:image/jpeg;base64,")), target
        assert not target.startswith("#") or target[1:] in page.ids
    assert not re.search(r"url\s*\(|@import|https?://", page.html)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(new <= old + 1 for old, new in zip(page.headings, page.headings[1:], strict=False))
    assert page.html.replace("\n", "").isprintable()
    for word in ("None", "Undefined", "Markup("):
        assert not re.search(rf"<td[^>]*>{re.escape(word)}", page.html), word
    for number in re.findall(r'(?:d|x|y|width|height|transform)="([^"]*)"', page.html):
        assert "nan" not in number.lower(), number
        assert "inf" not in number.lower(), number
    return page
