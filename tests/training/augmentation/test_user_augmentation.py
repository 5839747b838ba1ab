"""Augmentation by the user's own code: calling conventions, chance, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from dlcli.config import AugmentConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.training.augmentation.augment import Augment, make_augment

Write = Callable[..., str]
TASK = tiny.make_task(tiny.image(6))
N = 5
CPU = torch.device("cpu")
PIXELS = torch.randint(256, (N, 6, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TARGETS, INDICES = torch.arange(N) % 3, np.arange(N)

CODE = """
import random
import numpy as np
import torch
from torch import nn
from torchvision.transforms import v2

def image(x, add=0):
    assert x.dtype == torch.uint8 and x.shape[0] == 3
    return x // 2 + add

def noise(x):
    drawn = torch.rand(1).item() + random.random() + np.random.random()
    return x.float() / 255 * drawn / 3

def make(top=0):
    return v2.Compose([v2.RandomHorizontalFlip(0.5), v2.RandomAffine(20), v2.ColorJitter(0.5)])

def floats(*, scale):
    return v2.Compose([v2.RandomRotation(30), v2.ToDtype(torch.float32, scale=scale)])

class Half:
    def __init__(self, divisor=2):
        self.divisor = divisor
    def __call__(self, x):
        return x // self.divisor

half = Half()

class Compose:  # as albumentations calls it, and draws
    def __init__(self):
        self.rng = np.random.default_rng()
    def set_random_seed(self, seed):
        self.rng = np.random.default_rng(seed)
    def __call__(self, *args, force_apply=False, **data):
        assert not args
        assert data["image"].dtype == np.uint8 and data["image"].shape == (6, 6, 3)
        return {"image": np.clip(data["image"] * self.rng.random(), 0, 255).astype(np.uint8)}

Compose.__module__ = "albumentations.core.composition"
albumentations = Compose()

class Jitter(nn.Module):  # as kornia does
    def forward(self, x):
        assert x.ndim == 4 and x.max() <= 1 and x.dtype == torch.float32
        return x * torch.rand(len(x), 1, 1, 1)

Jitter.__module__ = "kornia.augmentation"
kornia = Jitter()

def together(x):
    assert x.ndim == 4
    return x // 2
together.batched = True
"""
RANDOM = ("noise", "make", "albumentations", "kornia")


pytestmark = pytest.mark.usefixtures("trusted")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, code: str = CODE) -> str:
        path = tmp_path / "aug.py"
        path.write_text(code)
        return f"{path}:{name}"

    return write


def augment(level: str, *, seed: int = 0, **settings: Any) -> Augment:
    config = AugmentConfig(level=level, **settings)
    made = make_augment(config, TASK, samples=N, seed=seed, device=CPU)
    assert made is not None
    return made


def images(augmentation: Augment, indices: Any = INDICES, epoch: int = 0) -> torch.Tensor:
    rows = torch.from_numpy(indices)
    return augmentation((PIXELS[rows],), TARGETS[rows], indices, epoch)[0][0]


@pytest.mark.parametrize(
    ("name", "args"),
    [("image", {}), ("Half", {}), ("half", {}), ("together", {}), ("Half", {"divisor": 2})],
)
def test_functions_classes_objects_and_batches(write: Write, name: str, args: Any) -> None:
    augmentation = augment(write(name), args={name: args} if args else {})
    assert torch.equal(images(augmentation), PIXELS // 2)
    assert augmentation.sentence.startswith(f"augmentation: aug.py:{name}")
    assert ("depends on how a batch is divided" in augmentation.sentence) == (name == "together")


def test_arguments_reach_a_function(write: Write) -> None:
    assert torch.equal(images(augment(write("image"), args={"image": {"add": 3}})), PIXELS // 2 + 3)
    for name in ("image", "half", "Half", "make"):
        with pytest.raises(UsageError, match=rf"unknown setting 'augment.args.{name}.ad'"):
            augment(write(name), args={name: {"ad": 3}})
    with pytest.raises(UsageError, match="missing a required argument: 'scale'"):
        augment(write("floats"))


@pytest.mark.parametrize("name", RANDOM)
def test_chance_is_a_function_of_seed_epoch_and_sample(write: Write, name: str) -> None:
    level = write(name)
    whole = images(augment(level))
    torch.manual_seed(1)
    random.seed(1)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for part in (np.array([4, 1]), np.array([2])):  # another order, another division
        assert torch.equal(images(augment(level), part).float(), whole[torch.from_numpy(part)].float())
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(state[0], after[0])
    assert state[1:] == after[1:]
    assert not torch.equal(whole, images(augment(level), epoch=1))
    assert not torch.equal(whole, images(augment(level, seed=1)))
    assert not torch.equal(whole.float(), PIXELS.float())


def test_floats_are_scaled_and_other_operations_follow(write: Write) -> None:
    level = write("floats")
    scaled = images(augment(level, args={"floats": {"scale": True}}))
    assert scaled.dtype == torch.float32
    assert 1 < scaled.max() <= 255
    with pytest.raises(DlcliError, match=r"returned float32 values from . to 2\d\d"):
        images(augment(level, args={"floats": {"scale": False}}))
    mixed = augment(write("half"), mixup=1.0)
    assert mixed.mixes
    assert mixed((PIXELS,), TARGETS, INDICES, 0)[1].shape == (N, 3)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def own(x): return x.float() / 128 - 1", "returned float32 values from -0.992 to 0.984"),
        ("def own(x): return x.long()", "returned int64 values"),
        (
            "def own(x): return x[:, :4]",
            "returned the shape (3, 4, 6) for one of (3, 6, 6), in aug.py line 1: def own(x): return x",
        ),
        ("def own(x): return x.numpy()", "returned a ndarray, not a tensor"),
        ("def own(x): return x.no_such()", "failed on uint8 (3, 6, 6): AttributeError"),
        ("def own(): return 3", "returned a int, which takes no image"),
        ("def own(): return lambda x: None", "returned a NoneType, not a tensor"),
        ("def own(): 1 / 0", "in aug.py line 1: def own(): 1 / 0"),
        ("other = 3", "has no augmentation 'own'"),
    ],
)
def test_what_is_no_augmentation_is_refused(write: Write, code: str, message: str) -> None:
    level = write("own", code + "\n")
    with pytest.raises(DlcliError) as caught:
        images(augment(level))
    assert message in str(caught.value)
