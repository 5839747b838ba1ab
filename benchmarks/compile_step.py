"""Whether torch.compile makes a training step of dlcli's models faster on this CPU, and what it costs.

python benchmarks/compile_step.py [MODEL ...]

CPU time of a float32 step on random inputs, eager and compiled in turn, and of the first compiled step.
Set TORCHINDUCTOR_CACHE_DIR to an empty folder: what was compiled before is found again.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from common import interleave, machine, ratios, spread

from dlcli.card import ModelSpec
from dlcli.task import SPECIAL_TOKENS, ImageInput, TaskSpec, TextInput
from dlcli.zoo.base import build_model
from dlcli.zoo.forward import place

ROUNDS, BLOCK_S, LENGTH, CLASSES = 9, 0.3, 24, 10


def photos(channels: int, side: int) -> TaskSpec:
    """Classes of images."""
    half = (0.5,) * channels
    spec = ImageInput(channels=channels, height=side, width=side, resize_size=side, mean=half, std=half)
    return TaskSpec(input=spec, class_names=tuple("abcdefghij"))


def texts() -> TaskSpec:
    """Classes of texts."""
    words = (*SPECIAL_TOKENS, *(f"w{number}" for number in range(4000)))
    spec = TextInput(vocabulary=words, max_length=LENGTH)
    return TaskSpec(input=spec, class_names=tuple("abcdefghij"))


CASES = {
    "mlp": (photos(1, 28), 64),
    "cnn": (photos(1, 28), 64),
    "resnet18": (photos(3, 128), 16),
    "lstm": (texts(), 64),
    "transformer": (texts(), 64),
}


def batch(task: TaskSpec, size: int) -> tuple[torch.Tensor, ...]:
    """Random inputs in the layout that training gives them."""
    if isinstance(task.input, ImageInput):
        spec = task.input
        pixels = torch.randn(size, spec.channels, spec.height, spec.width)
        return (pixels.to(memory_format=torch.channels_last),)
    return torch.randint(4, 4000, (size, LENGTH)), torch.full((size,), LENGTH)


def cpu_s(who: int = resource.RUSAGE_SELF) -> float:
    """CPU time so far, user and system."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def make_step(
    model: str, task: TaskSpec, inputs: tuple[torch.Tensor, ...], mode: str
) -> Callable[[], None]:
    """A training step of a new module: forward, backward, AdamW."""
    torch.manual_seed(0)
    module = place(build_model(ModelSpec(name=model), task), torch.device("cpu")).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    forward = torch.compile(module) if mode == "compiled" else module
    targets = torch.randint(CLASSES, (len(inputs[0]),))

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(forward(*inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def timed(step: Callable[[], None], count: int) -> float:
    """CPU seconds of a step, over ``count`` of them after one."""
    step()
    before = cpu_s()
    for _ in range(count):
        step()
    return (cpu_s() - before) / count


def main() -> None:
    print(machine())
    for model in sys.argv[1:] or CASES:
        task, size = CASES[model]
        inputs = batch(task, size)
        eager = make_step(model, task, inputs, "eager")
        count = max(1, int(BLOCK_S / timed(eager, 3)))
        compiled = make_step(model, task, inputs, "compiled")
        children = resource.RUSAGE_CHILDREN
        t0, before = time.perf_counter(), cpu_s() + cpu_s(children)
        compiled()
        print(
            f"{model}, batch {size}: first compiled step {time.perf_counter() - t0:.1f} s, "
            f"{cpu_s() + cpu_s(children) - before:.1f} s of CPU time"
        )
        steps = {"eager": eager, "compiled": compiled}
        runs = {name: partial(timed, step, count) for name, step in steps.items()}
        times = interleave(runs, ROUNDS)
        for name, values in times.items():
            print(f"  {name}: {spread(values)} s of CPU time a step")
        print(f"  compiled is {ratios(times['eager'], times['compiled'])} x as fast")


if __name__ == "__main__":
    main()
