"""Training loops of others, one a call, in a Python that has their libraries; prints one JSON object.

    python loops.py PROGRAM ROW DATA [--epochs 2] [--workers 0]

Called by ``training_speed.py``. It imports no dlcli: the models are written out here, with the layers of
dlcli's own, so that only the loops differ. Seconds are those of training steps of each epoch, reading
included, without validation; the accuracy is of the test split. ``frozen`` is ``resnet18`` of which the
last layer alone is trained.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = {"cnn": 64, "mlp": 64, "resnet18": 32, "frozen": 32, "lstm": 64, "transformer": 64}
RATE = {"cnn": 1e-3, "mlp": 1e-3, "resnet18": 1e-3, "frozen": 1e-3, "lstm": 2e-3, "transformer": 1e-3}
PHOTOS, TEXTS = ("resnet18", "frozen"), ("lstm", "transformer")
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


class Texts(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """TREC's questions as word ids, 0 for padding and 1 for words that train does not have."""

    def __init__(self, folder: str, split: str, ids: dict[str, int] | None = None) -> None:
        lines = (Path(folder) / f"TREC.{split}.all").read_text("iso-8859-1").splitlines()
        pairs = [line.partition(" ") for line in lines]
        words = [re.findall(r"\w+|[^\w\s]", text.lower()) for _, _, text in pairs]
        names = sorted({label for label, _, _ in pairs})
        counts = Counter(word for text in words for word in text)
        self.ids = {word: 2 + i for i, word in enumerate(counts)} if ids is None else ids
        self.texts = [torch.tensor([self.ids.get(word, 1) for word in text]) for text in words]
        self.labels = [names.index(label) for label, _, _ in pairs]
        self.classes, self.longest = len(names), max(map(len, words))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.texts[index], self.labels[index]


class TextModel(nn.Module):
    """The layers of dlcli's ``lstm`` and ``transformer`` for texts, by torch's own modules."""

    def __init__(self, row: str, vocabulary: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 128, padding_idx=0)
        self.lstm = self.encoder = None
        if row == "lstm":
            self.lstm = nn.LSTM(128, 128, batch_first=True, bidirectional=True)
            dense = nn.Linear(256, 128)
            self.head = nn.Sequential(
                *(nn.Dropout(0.4), dense, nn.ReLU(), nn.Dropout(0.4)), nn.Linear(128, classes)
            )
        else:
            block = nn.TransformerEncoderLayer(
                *(128, 4, 256, 0.1), activation="gelu", batch_first=True, norm_first=True
            )
            self.encoder = nn.TransformerEncoder(block, 2, nn.LayerNorm(128), enable_nested_tensor=False)
            self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(128, classes))
            angles = torch.arange(512.0)[:, None] * 1e4 ** (-torch.arange(0, 128, 2) / 128)
            self.register_buffer("places", torch.stack([angles.sin(), angles.cos()], 2).flatten(1))

    def forward(self, tokens: Tensor) -> Tensor:
        valid = tokens != 0
        x = self.embedding(tokens)
        if self.lstm is not None:
            packed = nn.utils.rnn.pack_padded_sequence(
                x, valid.sum(1).clamp(min=1), batch_first=True, enforce_sorted=False
            )
            states, _ = nn.utils.rnn.pad_packed_sequence(
                self.lstm(packed)[0], batch_first=True, padding_value=-1e9, total_length=tokens.shape[1]
            )
            return self.head(states.amax(1))
        assert self.encoder is not None
        x = self.encoder(x + self.places[: x.shape[1]], src_key_padding_mask=~valid)
        x = (x * valid[..., None]).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
        return self.head(x)


def padded_to(length: int) -> Callable[[list[tuple[Tensor, int]]], tuple[Tensor, Tensor]]:
    """A collate function: texts padded to ``length`` tokens, or to the longest of the batch."""

    def collate(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        x = nn.utils.rnn.pad_sequence([text for text, _ in samples], batch_first=True)
        x = F.pad(x, (0, max(0, length - x.shape[1])))
        return x, torch.tensor([label for _, label in samples])

    return collate


def model(row: str, samples: Any) -> nn.Module:
    """``samples`` of train say how many classes there are, and how many words."""
    classes = samples.classes
    if row in PHOTOS:
        from torchvision.models import resnet18

        net = resnet18(num_classes=classes)
        if row == "frozen":
            net.requires_grad_(False)
            net.fc.requires_grad_(True)
        return net
    if row in TEXTS:
        return TextModel(row, 2 + len(samples.ids), classes)
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


def loader(
    row: str, data: str, split: str, workers: int, length: int = 0
) -> torch.utils.data.DataLoader[Any]:
    """Batches of a split; ``length`` is what each text is padded to (0: the longest of its batch)."""
    samples: Any
    if row in TEXTS:
        samples = Texts(data, "train")
        length = min(length, samples.longest)
        samples = samples if split == "train" else Texts(data, split, samples.ids)
    else:
        samples = (Photos if row in PHOTOS else Images)(data, split)
    return torch.utils.data.DataLoader(
        samples,
        batch_size=BATCH[row],
        shuffle=split == "train",
        num_workers=workers,
        collate_fn=padded_to(length) if row in TEXTS else None,
    )


def accuracy(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    net.eval()
    hits = total = 0
    with torch.no_grad():
        for x, y in batches:
            hits, total = hits + int((net(x).argmax(1) == y).sum()), total + len(y)
    return hits / total


def textbook(
    row: str, data: str, epochs: int, workers: int, length: int = 0
) -> tuple[list[float], float]:
    """The loop of the tutorials: a DataLoader, five lines a step, ``.item()`` in each."""
    batches = loader(row, data, "train", workers, length)
    net = model(row, batches.dataset)
    optimizer = torch.optim.AdamW((p for p in net.parameters() if p.requires_grad), lr=RATE[row])
    seconds = []
    for _ in range(epochs):
        net.train(row != "frozen")
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


def padded(row: str, data: str, epochs: int, workers: int) -> tuple[list[float], float]:
    """The same, with every text padded to the longest of all."""
    return textbook(row, data, epochs, workers, length=10**6)


def in_memory(row: str, data: str, epochs: int, workers: int) -> tuple[list[float], float]:
    """Six lines over one tensor in memory: no reading at all, float32, nothing counted."""
    pixels, labels = fashion(data, "train")
    x = (torch.from_numpy(pixels).float().div_(255).sub_(0.286).div_(0.353)).unsqueeze(1)
    y = torch.from_numpy(labels).long()
    net = model(row, Images(data, "train"))
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
    net = model(row, batches.dataset)
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
    "padded": padded,
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
