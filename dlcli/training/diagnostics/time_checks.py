"""Checks of where the time of a run went: what would have made it faster, where that follows."""

from __future__ import annotations

from dlcli.training.diagnostics.checks import History, listed

MIN_RUN_S = 10.0  # a shorter run has nothing to gain
LARGE_SHARE = 0.3  # of the time of training
LARGE_SAVING_SHARE = 0.2
LARGE_CORE_WAIT = 0.2
FEW_TRAIN_FOR_VAL = 4  # training samples for each validation sample; a tenth is held out by default


def busy_machine(history: History) -> str | None:
    """Detect other programs that kept the cores busy while the run was ready to go on."""
    event = history.finished
    if event is None or sum(event.phase_s.values()) < MIN_RUN_S or event.core_wait < LARGE_CORE_WAIT:
        return None
    fewer = ", and so it may be with fewer threads (OMP_NUM_THREADS=1)" if event.cores > 1 else ""
    return (
        f"{event.core_wait:.0%} of the time the run was ready and had no core: other programs were busy "
        f"on this machine. Alone it is faster{fewer}"
    )


def waiting_for_data(history: History) -> str | None:
    """Detect a run that waited for images which are decoded anew in every epoch."""
    event, share = history.finished, _share(history, "data")
    if event is None or share < LARGE_SHARE or not event.streamed:
        return None
    ways = []
    if history.setting("data.cache") == "none":
        ways.append("--cache auto, which decodes each once")
    else:
        ways.append("another disk or limit for the cache (--cache-dir, data.cache_limit)")
        ways.append("a smaller --img-size, of which more images fit into it")
    workers = history.setting("data.workers")
    if workers is not None and workers < event.cores:
        ways.append(f"more decoding threads than --workers {workers}")
    return (
        f"{share:.0%} of the time was spent waiting for images, which are decoded again in every epoch. "
        f"Try {listed(ways)}"
    )


def long_evaluation(history: History) -> str | None:
    """Detect a validation split that is large beside the training split and costs as much."""
    share = _share(history, "evaluation")
    if history.started is None or share < LARGE_SHARE:
        return None
    train, val = (history.started.samples.get(name, 0) for name in ("train", "val"))
    if not val or train / val >= FEW_TRAIN_FOR_VAL:
        return None
    return (
        f"evaluation took {share:.0%} of the time: val has {val:,} samples and train {train:,}. "
        "A smaller val split costs less after every epoch"
    )


def long_saving(history: History) -> str | None:
    """Detect states that are saved so often that it costs more than it protects."""
    share = _share(history, "saving")
    if share < LARGE_SAVING_SHARE:
        return None
    every = history.setting("fit.checkpoint_every")
    return (
        f"saving took {share:.0%} of the time, with --checkpoint-every {every}. "
        "--checkpoint-every 10min saves less often; a crash then costs at most that much"
    )


def _share(history: History, phase: str) -> float:
    """Return the share of a phase in the time of a run; 0 where the run was short."""
    seconds = {} if history.finished is None else history.finished.phase_s
    total = sum(seconds.values())
    return seconds.get(phase, 0.0) / total if total >= MIN_RUN_S else 0.0
