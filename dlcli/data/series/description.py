"""Description of a series input."""

from __future__ import annotations

from dlcli import wording
from dlcli.data.kinds import Description
from dlcli.task import SeriesInput


def describe(spec: SeriesInput) -> Description:
    """Describe the length and the statistics of each channel."""
    steps = wording.plural(spec.length, "step")
    length = f"up to {steps}; a longer series is truncated" if spec.varies else steps
    channels = tuple(
        (name, f"mean {wording.number(mean)}, std {wording.number(std)}")
        for name, mean, std in zip(spec.channels, spec.mean, spec.std, strict=True)
    )
    facts = (("length", length), ("channels", wording.count(len(spec.channels))))
    return Description(facts, (("Channels", channels),))
