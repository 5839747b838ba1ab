"""The screen of `dlcli explain`: coloured words, and the parts with the largest effects as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli import wording
from dlcli.ui.console import stdout
from dlcli.ui.text import figure, from_here, signed

if TYPE_CHECKING:
    from rich.text import Text

    from dlcli.evaluation.explanations import Explanation, PartEffect
    from dlcli.task import TaskSpec

SHOWN, NAME_WIDTH, BAR = 12, 32, 20  # parts; characters of a part's name and of the longest bar


def print_explanation(
    one: Explanation, task: TaskSpec, picture: Path | None, *, first: bool, quiet: bool
) -> None:
    """Print one explanation; of an image, whose picture shows it, a line and the picture's path."""
    from rich.text import Text

    console = stdout()
    if not first and task.input.kind != "image":
        console.print()
    head = Text(wording.printable(one.input), "bold").append(f"  {_prediction(one, task)}", "not bold")
    console.print(head, soft_wrap=True)
    if one.heat is not None and not one.heat.any():
        console.print(f"  no part of it speaks for {wording.printable(one.target)}", soft_wrap=True)
    if picture is not None:
        console.print(f"  {wording.printable(from_here(str(picture)))}", soft_wrap=True)
    if one.heat is not None:
        return
    if one.text and console.color_system is not None:
        console.print(coloured(one))
    for what in ("word", "column", "step", "channel"):
        # Steps in their order, which is a profile; of the rest the largest first.
        ordered = one.parts if what == "step" else one.ranked
        parts = [effect for effect in ordered if effect.part.what == what]
        if parts:
            _print_bars(parts, what, one, task)
    if not quiet:
        console.print(f"  {_meaning(one, task)}", style="dim")


def coloured(one: Explanation) -> Text:
    """The text of an explanation, green where it speaks for the target, red where against it."""
    from rich.style import Style
    from rich.text import Text

    text = Text("  ")
    top = max((abs(effect.effect) for effect in one.parts), default=0.0)
    at = 0
    for effect in one.parts:
        (start,), (stop,) = effect.part.start, effect.part.stop
        text.append(_on_one_line(one.text[at:start]))
        strength = abs(effect.effect) / top if top else 0.0
        pale = round(255 - 150 * strength)
        colour = f"rgb({pale},255,{pale})" if effect.effect > 0 else f"rgb(255,{pale},{pale})"
        style = Style.parse(f"black on {colour}") if strength >= 0.1 else Style()
        text.append(_on_one_line(one.text[start:stop]), style)
        at = stop
    text.append(_on_one_line(one.text[at:]))
    return text


def _on_one_line(text: str) -> str:
    """Return a part of a text without line breaks; the tab of a pair becomes a bar."""
    return wording.printable(text.replace("\n", " ").replace("\t", " | "))


def _print_bars(parts: Sequence[PartEffect], title: str, one: Explanation, task: TaskSpec) -> None:
    """Print the largest effects of one sort of parts, with bars of a common scale."""
    from rich.cells import cell_len
    from rich.text import Text

    console = stdout()
    shown = parts if title == "step" else parts[:SHOWN]
    names = [wording.shorten(wording.printable(effect.part.name), NAME_WIDTH) for effect in shown]
    name = max(cell_len(title), *(cell_len(each) for each in names))
    top = max(abs(effect.effect) for effect in one.parts)
    without = task.kind != "forecast"
    words = "without" if task.targets else "p without"
    console.print(
        f"  {title}{' ' * (name - cell_len(title))}  {'effect':>10}"
        f"{f'  {words:>10}' if without else ''}",
        style="dim",
    )
    block = "█" if "utf" in (console.encoding or "").lower() else "#"
    for effect, label in zip(shown, names, strict=True):
        line = Text(f"  {label}{' ' * (name - cell_len(label))}  {signed(effect.effect):>10}")
        if without and effect.without is not None:
            line.append(f"  {_value(effect.without, task):>10}")
        length = round(BAR * abs(effect.effect) / top) if top else 0
        line.append("  " + block * length, "green" if effect.effect > 0 else "red")
        line.rstrip()
        console.print(line, soft_wrap=True)
    if len(parts) > len(shown):
        console.print(f"  and {len(parts) - len(shown):,} with smaller effects", style="dim")


def _prediction(one: Explanation, task: TaskSpec) -> str:
    """The prediction, and what is explained where that is something else."""
    if one.value is None:
        return f"forecast of {one.target}" if one.target else "forecast"
    target = wording.printable(one.target)
    if task.targets:
        return f"{target} {wording.number(one.value)}"
    label = one.row.get("label")
    predicted = "" if label in (None, one.target) else f"predicted {wording.printable(str(label))}; "
    return f"{predicted}{target} {one.value:.4f}"


def _value(value: float, task: TaskSpec) -> str:
    return wording.number(value) if task.targets else figure(value)


def _meaning(one: Explanation, task: TaskSpec) -> str:
    """What the effects are, in one sentence."""
    unit = {
        "regression": f"the change of {wording.printable(one.target)}",
        "forecast": "the mean change of the steps, in stds",
    }.get(task.kind, f"the change of the log-odds of {wording.printable(one.target)}")
    return f"effect: {unit}; {one.how}"
