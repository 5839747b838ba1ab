"""One epoch of `cnn` on Fashion-MNIST: dlcli beside the textbook loop. Bar: at least 1.5x.

    python benchmarks/cnn_epoch.py FASHION_MNIST_FOLDER [--rounds 5] [--accuracy]

The textbook loop is torchvision's dataset with ToTensor and Normalize a sample, a DataLoader of
batch 64 and ``.item()`` every step; same model, same batch size, AdamW at the same rate. Both print
images a second over the whole epoch. ``--accuracy`` trains dlcli's 5 epochs instead, three seeds.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import interleave, machine, ratios, spread

from dlcli.config import TrainConfig
from dlcli.evaluation.evaluate import evaluate
from dlcli.events import EpochDone, Event
from dlcli.settings import merge, validate
from dlcli.training.planning import make_plan
from dlcli.training.prepare import prepare_run
from dlcli.training.run import new_run, train
from dlcli.zoo.base import build_model


def settings(data: str, **fit: object) -> dict[str, object]:
    return {
        "model": {"name": "cnn"},
        "data": {"data": "fashion-mnist", "data_dir": data},
        "fit": {"batch_size": 64, "device": "cpu", **fit},
    }


def dlcli_epoch(data: str) -> float:
    """Images a second of a whole first epoch, events, metrics and checkpoint included."""
    seen: list[EpochDone] = []

    def emit(event: Event) -> None:
        if isinstance(event, EpochDone):
            seen.append(event)

    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, settings(data, epochs=1))))
    with tempfile.TemporaryDirectory() as root:
        train(prepare_run(plan), new_run(prepare_run(plan), Path(root), None), emit, state=None)
    return seen[0].samples_per_s


def textbook_epoch(root: str, data: str, workers: int) -> float:
    """Images a second of the loop that tutorials teach."""
    from torchvision import datasets, transforms

    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, settings(data, epochs=1))))
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.286,), (0.353,))])
    train_set = datasets.FashionMNIST(root, train=True, transform=transform)
    loader = torch.utils.data.DataLoader(train_set, batch_size=64, shuffle=True, num_workers=workers)
    model = build_model(plan.model, plan.task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    t0, running, hits = time.perf_counter(), 0.0, 0
    for x, y in loader:
        optimizer.zero_grad()
        logits = model(x)
        loss = torch.nn.functional.cross_entropy(logits, y)
        loss.backward()
        optimizer.step()
        running += loss.item() * len(y)
        hits += (logits.argmax(1) == y).sum().item()
    return len(train_set) / (time.perf_counter() - t0)


def unpack(data: Path, root: Path) -> None:
    """Lay the files out as torchvision's own class wants them."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in data.glob("*-ubyte*"):
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        (raw / file.name.removesuffix(".gz")).write_bytes(content)


def accuracy(data: str) -> None:
    """Test accuracy after 5 epochs, three seeds. Bar: at least 0.91."""
    from dlcli.config import EvalConfig
    from dlcli.evaluation.eval_data import eval_data
    from dlcli.formats.base import open_artifact

    found = []
    for seed in range(3):
        said = settings(data, epochs=5, seed=seed)
        plan = make_plan(lambda recipe, said=said: validate(TrainConfig, merge(recipe, said)))
        with tempfile.TemporaryDirectory() as root:
            run = new_run(prepare_run(plan), Path(root), None)
            train(prepare_run(plan), run, lambda event: None, state=None)
            model = open_artifact(run.best, device="cpu")
            test = eval_data(model.card, run.best, EvalConfig())
            result = evaluate(model.predict, test.reader, plan.task.class_names, split=test.split)
        found.append(result.metrics["accuracy"])
        print(f"  seed {seed}: test accuracy {found[-1]:.4f}", flush=True)
    print(machine())
    print(f"cnn, 5 epochs: test accuracy {statistics.mean(found):.4f}, mean of 3 seeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--accuracy", action="store_true")
    args = parser.parse_args()
    if args.accuracy:
        accuracy(args.data)
        return
    with tempfile.TemporaryDirectory() as root:
        unpack(Path(args.data), Path(root))
        found = interleave(
            {
                "dlcli": lambda: dlcli_epoch(args.data),
                "textbook, 0 workers": lambda: textbook_epoch(root, args.data, 0),
                "textbook, 2 workers": lambda: textbook_epoch(root, args.data, 2),
            },
            args.rounds,
        )
    print(machine())
    for name, values in found.items():
        print(f"{name}: {spread(values)} images/s; dlcli is {ratios(found['dlcli'], values)} x")


if __name__ == "__main__":
    main()
