"""Description of a series input."""

from __future__ import annotations

from dlcli import wording
from dlcli.data.kinds import Description
from dlcli.task import SeriesInput

_CHANNELS = 3  # whose scales are shown for each series


def describe(spec: SeriesInput) -> Description:
    """Describe the length and the statistics of each channel."""
    steps = wording.plural(spec.length, "step")
    length = f"up to {steps}; a longer series is truncated" if spec.varies else steps
    channels = tuple(
        (name, f"mean {wording.number(mean)}, std {wording.number(std)}")
        for name, mean, std in zip(spec.channels, spec.mean, spec.std, strict=True)
    )
    facts = [("length", length), ("channels", wording.count(len(spec.channels)))]
    tables = [("Channels", channels)]
    if spec.series_column is not None:
        how = "each by its own mean and std" if spec.scaled_by_series else "together"
        count = wording.count(len(spec.series))
        facts.append(("series", f"{count}, told apart by {spec.series_column!r}, scaled {how}"))
    if spec.scaled_by_series:
        tables = [("Series: each is (x - mean)/std, and so are the model's outputs", _scales(spec))]
    return Description(tuple(facts), tuple(tables))


def _scales(spec: SeriesInput) -> tuple[tuple[str, str], ...]:
    """Return mean and std of the first channel of each series, or of all of few channels."""
    rows = []
    for one in spec.series:
        triples = list(zip(spec.channels, one.mean, one.std, strict=True))[:_CHANNELS]
        shown = [f"{name}: mean {wording.number(m)}, std {wording.number(s)}" for name, m, s in triples]
        more = f"; and {len(spec.channels) - _CHANNELS} more" if len(spec.channels) > _CHANNELS else ""
        rows.append((one.id or "(empty)", "; ".join(shown) + more))
    return tuple(rows)
