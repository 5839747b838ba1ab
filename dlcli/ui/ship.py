"""The screens of `dlcli ship`: what will be tried, what was measured, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli import wording
from dlcli.machine.load import MAX_WAIT
from dlcli.ui.console import stderr, stdout
from dlcli.ui.tables import print_comparison, print_key_values
from dlcli.ui.text import duration, milliseconds, signed

if TYPE_CHECKING:
    from dlcli.deploy.ship.attempts import Attempt
    from dlcli.deploy.ship.plan import PlannedAttempt
    from dlcli.deploy.ship.ship import ShipJob, Shipped

_VERDICTS = {True: "kept", False: "MISSED", None: ""}


def plan_facts(job: ShipJob, done: Mapping[str, Attempt]) -> dict[str, Any]:
    """Return the plan, JSON-ready."""
    return {
        "command": "ship",
        "dry_run": True,
        "artifact": str(job.source.path),
        "target": job.target.name,
        "note": job.target.note or None,
        "seconds": job.plan.seconds,
        "core_wait": job.facts.core_wait,
        "attempts": [
            {
                "label": one.label,
                "how": one.describe(),
                "seconds": one.estimate_s,
                "only_if": _condition(one) or None,
                "finished": one.label in done,
            }
            for one in job.plan.attempts
        ],
        "left_out": [one.label for one in job.plan.left_out],
    }


def print_plan(job: ShipJob, done: Mapping[str, Attempt], *, to_stderr: bool) -> None:
    """Print what will be tried, in order, with about how long each takes."""
    plan, config = job.plan, job.settings.ship
    limit = "" if config.max_time is None else f", --max-time {config.max_time}"
    total = "time not known" if plan.seconds is None else f"about {duration(plan.seconds)} at most"
    if len(done) == len(plan.attempts):
        total = "all finished"
    title = (
        f"ship for {job.target.name}: {wording.plural(len(plan.attempts), 'attempt')}, {total}{limit}"
    )
    rows = [[one.label, _time(one, done), _words(one)] for one in plan.attempts]
    rows += [[one.label, "does not fit", _words(one)] for one in plan.left_out]
    console = stderr() if to_stderr else stdout()
    print_comparison(title, ["", "about", "what"], rows, words=(2,), console=console)
    if job.facts.core_wait > MAX_WAIT:
        console.print(
            f"  times were estimated while other programs were busy on this machine: "
            f"{job.facts.core_wait:.0%} of the time no core was free",
            soft_wrap=True,
        )
    if job.target.note:
        console.print(wording.printable(f"  {job.target.note}"), soft_wrap=True)


def print_shipped(shipped: Shipped, result: Mapping[str, Any], folder: Path) -> None:
    """Print what was chosen, its checks, and all attempts."""
    chosen = shipped.chosen
    rows = [
        ("target", shipped.target.name),
        ("chosen", f"{chosen.label}: {chosen.how}"),
        ("folder", str(folder)),
    ]
    for check in result["checks"]:
        verdict = _VERDICTS[check["passed"]]
        rows.append((check["check"], f"{verdict}: {check['text']}" if verdict else check["text"]))
    rows += [("note", text) for text in (shipped.target.note, *result["notes"]) if text]
    if shipped.done_before:
        count = wording.plural(shipped.done_before, "attempt")
        rows.append(("resumed", f"{count} had finished before"))
    rows += [(f"no {label}", reason) for label, reason in shipped.failed.items()]
    print_key_values("shipped", rows)
    stdout().print()
    metric = chosen.delta.metric
    title = f"attempts on {wording.plural(chosen.samples, 'sample')} of {chosen.split}, in their order"
    title += "; * is in the Pareto set"
    speeds = ["ms a call", "speed"] if chosen.latency_ms else []
    columns = ["", "", "size", metric, *speeds, ""]
    pareto = {attempt.label for attempt in shipped.pareto}
    print_comparison(title, columns, [_row(one, shipped, pareto) for one in shipped.attempts])


def _row(attempt: Attempt, shipped: Shipped, pareto: set[str]) -> list[str]:
    ratio, verdict = attempt.faster, ""
    if attempt is shipped.chosen:
        verdict = "chosen"
    elif shipped.bounds.excesses(attempt):
        verdict = "misses a bound"
    speeds = [
        "" if attempt.call_ms is None else milliseconds(attempt.call_ms),
        "" if ratio is None else f"{ratio.median:.2f} x",
    ]
    return [
        attempt.label,
        "*" if attempt.label in pareto else "",
        wording.size(attempt.size_bytes),
        signed(attempt.delta.difference),
        *(speeds if shipped.chosen.latency_ms else []),
        verdict,
    ]


def _time(planned: PlannedAttempt, done: Mapping[str, Attempt]) -> str:
    if planned.label in done:
        return "finished"
    seconds = planned.estimate_s
    return "not known" if seconds is None else duration(seconds)


def _words(planned: PlannedAttempt) -> str:
    condition = _condition(planned)
    return planned.describe() + (f"; only if {condition}" if condition else "")


def _condition(planned: PlannedAttempt) -> str:
    condition = planned.condition
    if condition is None:
        return ""
    return f"{condition.label} {'keeps' if condition.holds else 'misses'} --max-drop"
