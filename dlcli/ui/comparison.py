"""A model before and after a change, as a table and a verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlcli import wording
from dlcli.ui.console import stdout
from dlcli.ui.tables import print_comparison, print_key_values
from dlcli.ui.text import figure, milliseconds, signed, speed

if TYPE_CHECKING:
    from dlcli.deploy.compare import Comparison, MeasuredModel

# Shown beside the metric that models are compared by, where the task has them.
_ALWAYS = ("loss", "ece")


def print_change(
    comparison: Comparison, title: str, verdict: Sequence[str], rows: Sequence[tuple[str, str]] = ()
) -> None:
    """Print the facts (``rows`` first), the verdict, and both models side by side."""
    delta = comparison.delta
    facts = [*rows, ("file", comparison.after.artifact)]
    if comparison.split != "random":
        facts.append(("measured on", f"{comparison.samples:,} samples of {comparison.split}"))
    if comparison.thresholds:
        facts.append(("thresholds", comparison.thresholds))
    if comparison.device:
        facts.append(
            (
                "timed on",
                f"{comparison.device}, in interleaved rounds: median call; ratio: median and range",
            )
        )
    if comparison.clock == "cpu":
        facts.append(
            (
                "",
                f"other programs used {comparison.busy_cores:.1f} cores: CPU time of one thread, "
                "not the time on the clock",
            )
        )
    facts += [("verdict" if i == 0 else "", text) for i, text in enumerate(verdict)]
    print_key_values(title, facts)
    stdout().print()
    print_comparison(
        "before and after", ["", "before", "after", "change"], _table(comparison, delta.metric)
    )


def _table(comparison: Comparison, metric: str) -> list[list[str]]:
    before, after, delta = comparison.before, comparison.after, comparison.delta
    rows = [
        ["format", before.format, after.format, ""],
        [
            "size",
            wording.size(before.size_bytes),
            wording.size(after.size_bytes),
            f"x {comparison.size_ratio:.3g}",
        ],
        ["parameters", f"{before.params:,}", f"{after.params:,}", _share(before, after)],
    ]
    if delta.metrics:
        interval = f" ({signed(delta.low)} to {signed(delta.high)})"
        rows.append(
            [
                metric,
                figure(before.metrics[metric]),
                figure(after.metrics[metric]),
                signed(delta.difference) + (interval if delta.low > float("-inf") else ""),
            ]
        )
        for name in _ALWAYS:
            if name != metric and name in before.metrics and name in after.metrics:
                pair = (before.metrics[name], after.metrics[name])
                rows.append([name, *map(figure, pair), signed(pair[1] - pair[0])])
    if delta.agreement is not None:
        rows.append(["agreement", "", f"{delta.agreement:.2%}", ""])
    for batch, ratio in comparison.speedup.items():
        each = [f"{milliseconds(side.latency_ms[batch])} ms" for side in (before, after)]
        rounds = f"{ratio.low:.2f} to {ratio.high:.2f}"
        ratio_text = f"{ratio.median:.2f} x as fast ({rounds})" if ratio.known else "not known"
        rows.append([f"latency, batch {batch}", *each, ratio_text])
        each = [f"{speed(side.throughput[batch])}/s" for side in (before, after)]
        rows.append([f"throughput, batch {batch}", *each, ""])
    return rows


def _share(before: MeasuredModel, after: MeasuredModel) -> str:
    return "" if before.params in (0, after.params) else f"x {after.params / before.params:.3g}"
