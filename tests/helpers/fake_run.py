"""The events of a small run that never was."""

from __future__ import annotations

from collections.abc import Iterator

from dlcli.events import (
    CheckpointSaved,
    EpochDone,
    EvalProgress,
    Event,
    RunFinished,
    RunStarted,
    StepDone,
    Warned,
)

STARTED = RunStarted(
    run="resnet18-imgs", model="resnet18", params=11_181_642, trainable_params=5_130,
    data="/home/user/a rather long path/to the pictures", kind="image", task="classification",
    samples={"train": 3068, "val": 341},
    num_classes=10, input_shape=(3, 224, 224), epochs=3, steps_per_epoch=4, total_steps=12,
    batch_size=64, optimizer="adamw", scheduler="onecycle", lr=1e-3, device="cpu", amp="none",
    monitor="accuracy",
)  # fmt: skip


def step_done(step: int, *, eta_s: float = 185.0) -> StepDone:
    return StepDone(
        step=step, total_steps=12, epoch=(step - 1) // 4 + 1, epochs=3, step_in_epoch=(step - 1) % 4 + 1,
        steps_per_epoch=4, loss=1.2345, accuracy=0.5432, lr=7.89e-4, samples_per_s=1234.0,
        elapsed_s=60.0, eta_s=eta_s, memory_mib=1536.0,
    )  # fmt: skip


def epoch_done(epoch: int, *, improved: bool = True, monitor: str = "accuracy") -> EpochDone:
    return EpochDone(
        epoch=epoch, epochs=3, step=epoch * 4, loss=1.1111, accuracy=0.6111, lr=4.56e-4,
        val={"loss": 1.2222, "accuracy": 0.6 + epoch / 100, "f1_macro": 0.6333, "top5_accuracy": 0.9444},
        monitor=monitor, improved=improved, samples_per_s=1180.0, epoch_s=65.0, elapsed_s=epoch * 65.0,
    )  # fmt: skip


def run() -> Iterator[Event]:
    yield STARTED
    yield Warned("a class called [red]x[/] is empty")
    for epoch in (1, 2, 3):
        for step in range(epoch * 4 - 3, epoch * 4 + 1):
            yield step_done(step)
        yield EvalProgress("val", 128, 341)
        yield epoch_done(epoch, improved=epoch != 2)
        yield CheckpointSaved("state", f"runs/resnet18-imgs/state/step-{epoch * 4}", epoch * 4)
    yield RunFinished(
        "resnet18-imgs", 12, 3, "accuracy", 0.63, 3, 195.0,
        phase_s={"data": 39.0, "step": 117.0, "evaluation": 19.5, "saving": 9.75, "other": 9.75},
        samples_per_s=59.0, unit="images",
    )  # fmt: skip
