"""Pictures of a classifier: confusion matrix, reliability, precision and recall of each class."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from dlcli.evaluation.intervals import wilson
from dlcli.evaluation.metrics import ClassRow
from dlcli.evaluation.metrics.reliability import ReliabilityBin
from dlcli.report import svg
from dlcli.report.blocks import Figure, Table, Text
from dlcli.report.charts import bar
from dlcli.ui.text import figure
from dlcli.wording import count, printable, shorten

COUNTED = 20  # classes up to which cells hold their counts
LABELLED = 40  # classes up to which every class has its name on the axes
MOST_CLASSES = 200  # larger matrices are no picture any more
LEVELS = 10  # shades of a cell
LISTED, CONFUSIONS = 20, 12
NAME = 18  # characters of a class name on an axis


def confusion(caption: str, counts: Sequence[Sequence[int]], names: Sequence[str]) -> Figure | None:
    """Return the matrix, each row as shares of its true class, shaded by their square root."""
    classes = len(counts)
    if not 1 < classes <= MOST_CLASSES or any(len(row) != classes for row in counts):
        return None
    side = max(22.0 * classes, 180.0) if classes <= COUNTED else 470.0 if classes <= LABELLED else 560.0
    cell = side / classes
    shown = [shorten(name, NAME) for name in names]
    every = max(1, round(10 / cell + 0.499))
    names_width = 14 + 6.6 * max(map(len, shown))
    left, top = max(34.0, names_width), 24.0
    parts = _shades(counts, cell, left, top)
    turned = Markup('<text class="tick end" transform="translate({} {}) rotate(-60)">{}</text>')
    for number in range(0, classes, every):
        middle = (number + 0.5) * cell
        parts.append(svg.text(left - 4, top + middle + 3, shown[number], "tick end"))
        at = svg.position(left + middle + 3), svg.position(top + side + 8)
        parts.append(turned.format(*at, printable(shown[number])))
    if classes <= COUNTED:
        parts += [
            svg.text(left + (p + 0.5) * cell, top + (t + 0.5) * cell + 3.5, str(n), "count mid")
            for t, row in enumerate(counts)
            for p, n in enumerate(row)
            if n
        ]
    bottom = top + side + 0.87 * names_width + 14
    parts.append(svg.text(left + side / 2, bottom, "predicted", "label mid"))
    parts.append(svg.text(left - 4, top - 8, "true", "label end"))
    correct, total = sum(counts[i][i] for i in range(classes)), sum(map(sum, counts))
    label = f"{caption}: {correct:,} of {total:,} samples on the diagonal, {classes:,} classes"
    drawn = svg.drawing(parts, label, width=round(left + side + 8), height=round(bottom + 8))
    return Figure(caption, drawn, label, wide=classes > COUNTED // 2)


def _shades(counts: Sequence[Sequence[int]], cell: float, left: float, top: float) -> list[Markup]:
    """The cells: those of one shade are one path, so that many classes stay a small picture."""
    paths: dict[int, list[str]] = {}
    for true, row in enumerate(counts):
        total = sum(row)
        for guess, number in enumerate(row):
            if number:
                level = min(LEVELS, max(1, round(LEVELS * (number / total) ** 0.5)))
                paths.setdefault(level, []).append(f"M{guess} {true}h1v1h-1z")
    shape = Markup('<path class="heat" fill-opacity="{}" d="{}"/>')
    opened = Markup('<g transform="translate({:.1f} {:.1f}) scale({:.4f})">').format(left, top, cell)
    return [
        opened,
        svg.rect(0, 0, len(counts), len(counts), "track"),
        *(shape.format(level / LEVELS, "".join(steps)) for level, steps in sorted(paths.items())),
        Markup("</g>"),
    ]


def confusions(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Table | None:
    """Return the most frequent confusions."""
    wrong = [
        (number, sum(row), names[t], names[p])
        for t, row in enumerate(counts)
        for p, number in enumerate(row)
        if number and t != p
    ]
    most = sorted(wrong, key=lambda one: (-one[0], one[2], one[3]))[:CONFUSIONS]
    if not most:
        return None
    rows = [[t, p, count(n), f"{100 * n / total:.1f} %"] for n, total, t, p in most]
    heads = ["true class", "predicted as", "samples", "share of the true class"]
    return Table("Most frequent confusions", heads, rows, words=(1,))


def reliability(caption: str, bins: Sequence[ReliabilityBin]) -> Figure | None:
    """Return accuracy by confidence, with 95 % intervals, over the number of samples of each bin."""
    if not bins:
        return None
    x = svg.Scale(0, 1, svg.LEFT, svg.WIDTH - svg.RIGHT)
    y = svg.Scale(0, 1, 230, svg.TOP)
    most = max(part.samples for part in bins)
    shares = [0, 0.2, 0.4, 0.6, 0.8, 1]
    parts = [svg.axes(x, y, "confidence", "accuracy", x_ticks=shares, y_ticks=shares)]
    parts.append(svg.line(x(0), y(0), x(1), y(1), "mark"))
    for part in bins:
        left, right = x(part.low) + 1, x(part.high) - 1
        parts.append(svg.rect(left, y(part.accuracy), right - left, y(0) - y(part.accuracy), "bar"))
        low, high = wilson(round(part.accuracy * part.samples), part.samples)
        middle = x(part.confidence)
        parts.append(svg.line(middle, y(low), middle, y(high), "whisker strong"))
        parts.append(svg.dots([(middle, y(part.accuracy))], "strong"))
        height = 34 * part.samples / most
        parts.append(svg.rect(left, 312 - height, right - left, height, "track dark"))
    parts.append(svg.text(svg.LEFT, 326, "samples of each bin", "tick"))
    parts.append(svg.text(x.end, 326, f"{count(most)} in the largest", "tick end"))
    rows = "; ".join(f"{b.confidence:.2f}: {b.accuracy:.2f} of {b.samples:,}" for b in bins)
    label = f"{caption}. Mean confidence and accuracy of each bin: {rows}"
    legend = [("mark", "confidence equals accuracy"), ("strong", "accuracy, 95 % interval")]
    return Figure(caption, svg.drawing(parts, label, height=332), label, legend)


def class_table(rows: Sequence[ClassRow], noun: str) -> tuple[Table, Table | None]:
    """Return the classes, and where there are many those with the lowest F1 first, all as the second."""
    seen = [row for row in rows if row.samples or row.predicted]
    if len(rows) <= LISTED + 10:
        return _class_table(rows, f"Each {noun}", noun), None
    worst = sorted(seen, key=lambda row: row.f1)[:LISTED]
    caption = f"The {len(worst)} of {len(rows):,} with the lowest F1"
    return _class_table(worst, caption, noun), _class_table(rows[:1000], "All", noun)


def _class_table(rows: Sequence[ClassRow], caption: str, noun: str) -> Table:
    heads = [noun, "samples", "predicted", "recall", "95 % interval", "", "precision"]
    heads += ["95 % interval", "", "F1"]
    body: list[list[Text]] = []
    for row in rows:
        recall = _share(row.recall, row.samples)
        precision = _share(row.precision, row.predicted)
        f1 = figure(row.f1) if row.samples or row.predicted else "–"
        name = shorten(row.name, 60)
        body.append([name, count(row.samples), count(row.predicted), *recall, *precision, f1])
    note = "Wilson intervals; recall is of the samples of a class, precision of those predicted as it."
    return Table(caption, heads, body, note=note)


def _share(value: float, of: int) -> list[Text]:
    """A share of ``of`` samples, its interval, and both as a bar."""
    if not of:
        return ["–", "", ""]
    low, high = wilson(round(value * of), of)
    return [figure(value), f"{low:.3f} to {high:.3f}", bar(value, low, high)]
