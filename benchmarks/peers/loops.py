"""Training loops of others, one a call, in a Python that has their libraries; prints one JSON object.

    python loops.py PROGRAM ROW DATA [--epochs 2] [--workers 0]

Called by ``training_speed.py``. It imports no dlcli: the models are written out here, with the layers of
dlcli's own, so that only the loops differ. Seconds are those of training steps of each epoch, reading
included, without validation; the accuracy is of the test split.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = {"cnn": 64, "mlp": 64, "resnet18": 32}
RATE = {"cnn": 1e-3, "mlp": 1e-3, "resnet18": 1e-3}
SIDE = 128  # of the photos


def idx(path: Path) -> np.ndarray:
    """An IDX file of Fashion-MNIST."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    dims = content[3]
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()


def fashion(folder: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    prefix = {"train": "train", "test": "t10k"}[split]
    files = {kind: next(Path(folder).glob(f"{prefix}-{kind}*")) for kind in ("images", "labels")}
    return idx(files["images"]), idx(files["labels"])


class Photos(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A folder of classes, decoded and augmented a photo at a time, as torchvision's tutorials do."""

    def __init__(self, folder: str, split: str) -> None:
        from torchvision import transforms
        from torchvision.datasets import ImageFolder

        norm = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        train = [transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip()]
        test = [transforms.Resize(round(SIDE / 0.875)), transforms.CenterCrop(SIDE)]
        steps = [*(train if split == "train" else test), transforms.ToTensor(), norm]
        self.inner = ImageFolder(Path(folder) / split, transforms.Compose(steps))
        self.classes = len(self.inner.classes)

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.inner[index]


class Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Fashion-MNIST, converted and normalised an image at a time, as torchvision's data set does."""

    classes = 10

    def __init__(self, folder: str, split: str) -> None:
        from torchvision import transforms

        self.pixels, self.labels = fashion(folder, split)
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.286,), (0.353,))]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


def model(row: str, classes: int) -> nn.Module:
    if row == "resnet18":
        from torchvision.models import resnet18

        return resnet18(num_classes=classes)
    layers: list[nn.Module]
    if row == "mlp":
        layers = [nn.Flatten()]
        for wide, narrow in ((784, 256), (256, 128)):
            layers += [nn.Linear(wide, narrow), nn.BatchNorm1d(narrow), nn.ReLU(), nn.Dropout(0.1)]
        return nn.Sequential(*layers, nn.Linear(128, classes))
    layers, before = [], 1
    for width in (16, 32, 64):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
        before = width
    head = [nn.Flatten(), nn.Linear(before * 9, 128), nn.ReLU(), nn.Linear(128, classes)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), *head)


def loader(row: str, data: str, split: str, workers: int) -> torch.utils.data.DataLoader[Any]:
    samples = (Photos if row == "resnet18" else Images)(data, split)
    return torch.utils.data.DataLoader(
        samples, batch_size=BATCH[row], shuffle=split == "train", num_workers=workers
    )


def accuracy(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    net.eval()
    hits = total = 0
    with torch.no_grad():
        for x, y in batches:
            hits, total = hits + int((net(x).argmax(1) == y).sum()), total + len(y)
    return hits / total


def textbook(row: str, data: str, epochs: int, workers: int) -> tuple[list[float], float]:
    """The loop of the tutorials: a DataLoader, five lines a step, ``.item()`` in each."""
    batches = loader(row, data, "train", workers)
    net = model(row, batches.dataset.classes)  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE[row])
    seconds = []
    for _ in range(epochs):
        net.train()
        t0, running, hits = time.perf_counter(), 0.0, 0
        for x, y in batches:
            optimizer.zero_grad()
            outputs = net(x)
            loss = F.cross_entropy(outputs, y)
            loss.backward()
            optimizer.step()
            running += loss.item() * len(y)
            hits += int((outputs.argmax(1) == y).sum().item())
        seconds.append(time.perf_counter() - t0)
    return seconds, accuracy(net, loader(row, data, "test", workers))


def in_memory(row: str, data: str, epochs: int, workers: int) -> tuple[list[float], float]:
    """Six lines over one tensor in memory: no reading at all, float32, nothing counted."""
    pixels, labels = fashion(data, "train")
    x = (torch.from_numpy(pixels).float().div_(255).sub_(0.286).div_(0.353)).unsqueeze(1)
    y = torch.from_numpy(labels).long()
    net = model(row, 10)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE[row], fused=True)
    seconds = []
    for _ in range(epochs):
        net.train()
        t0 = time.perf_counter()
        for rows in torch.randperm(len(y)).split(BATCH[row]):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - t0)
    return seconds, accuracy(net, loader(row, data, "test", workers))


def lightning(row: str, data: str, epochs: int, workers: int) -> tuple[list[float], float]:
    """Lightning's Trainer with its defaults, logging off."""
    import lightning

    batches = loader(row, data, "train", workers)
    net = model(row, batches.dataset.classes)  # type: ignore[attr-defined]
    seconds: list[float] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.t0 = 0.0

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.net(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=RATE[row])

        def on_train_epoch_start(self) -> None:
            self.t0 = time.perf_counter()

        def on_train_epoch_end(self) -> None:
            seconds.append(time.perf_counter() - self.t0)

    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), batches)
    return seconds, accuracy(net, loader(row, data, "test", workers))


def ultralytics(row: str, data: str, epochs: int, workers: int) -> tuple[list[float], float]:
    """Ultralytics' trainer for its torchvision models, with its own defaults and augmentation."""
    import tempfile

    from ultralytics.models.yolo.classify import ClassificationTrainer

    seconds: list[float] = []
    started: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = ClassificationTrainer(
            overrides={
                **{"model": f"{row}", "data": data, "epochs": epochs, "imgsz": SIDE},
                **{"batch": BATCH[row], "device": "cpu", "workers": workers, "project": folder},
                **{"pretrained": False, "plots": False, "verbose": False, "val": False},
            }
        )
        trainer.add_callback("on_train_epoch_start", lambda _: started.append(time.perf_counter()))
        trainer.add_callback(
            "on_train_epoch_end", lambda _: seconds.append(time.perf_counter() - started[-1])
        )
        trainer.train()
        metrics = trainer.validate()[0] if trainer.metrics is None else trainer.metrics
    return seconds, float(metrics.get("metrics/accuracy_top1", float("nan")))


PROGRAMS: dict[str, Callable[[str, str, int, int], tuple[list[float], float]]] = {
    "textbook": textbook,
    "in-memory": in_memory,
    "lightning": lightning,
    "ultralytics": ultralytics,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program", choices=list(PROGRAMS))
    parser.add_argument("row", choices=list(BATCH))
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    c0 = time.process_time()
    seconds, score = PROGRAMS[args.program](args.row, args.data, args.epochs, args.workers)
    print(
        json.dumps({"epoch_s": seconds, "cpu_s": time.process_time() - c0, "accuracy": score}),
        flush=True,
    )


if __name__ == "__main__":
    main()
