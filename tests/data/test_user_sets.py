"""Data sets of a user's own code: what they are read as, and every way in which they can be wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlcli.config import DataConfig
from dlcli.data.base import DataSource, Listed, Stacked
from dlcli.data.sources import open_source, open_undivided
from dlcli.data.tables.rows import TableRows
from dlcli.data.tensors.rows import TensorRows
from dlcli.errors import DlcliError, UsageError
from dlcli.trust import allowing
from dlcli.user_data import reading

HEAD = """
import random
import numpy as np
import torch
from PIL import Image
from torch.utils.data import (ConcatDataset, DataLoader, Dataset, IterableDataset, Subset,
                              TensorDataset, random_split)

class Pixels(Dataset):
    def __init__(self, count=30):
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (count, 3, 8, 6)).astype(np.uint8)
        self.images[:, :, 0, :2] = 0, 255
    def __len__(self):
        return len(self.images)
    def __getitem__(self, index):
        return torch.from_numpy(self.images[index]), index % 2

"""
Write = Callable[..., DataConfig]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write ``data.py`` and return the settings that open ``NAME`` of it."""

    def config(code: str, name: str = "data", **settings: Any) -> DataConfig:
        path = tmp_path / "data.py"
        path.write_text(HEAD + code)
        return DataConfig(data=f"{path}:{name}", **settings)

    return config


def opened(config: DataConfig) -> DataSource:
    with allowing(config.data):
        return open_undivided(config)


def pixels(source: DataSource, split: str = "all") -> np.ndarray:
    items = source.splits[split].items
    assert isinstance(items, Stacked)
    return items.values


def test_a_uint8_image_is_read_as_it_is(write: Write) -> None:
    source = opened(write("data = Pixels"))
    assert (source.kind, source.task, source.class_names) == ("image", "classification", ("0", "1"))
    expected = np.random.default_rng(0).integers(0, 256, (30, 3, 8, 6)).astype(np.uint8)
    expected[:, :, 0, :2] = 0, 255
    np.testing.assert_array_equal(pixels(source), expected.transpose(0, 2, 3, 1))
    assert source.native == (3, 8, 6)


FLOATS = {
    "to_tensor": "image / 255",
    "normalized": "(image / 255 - 0.5) / 0.5",
    "imagenet": "(image / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) "
    "/ torch.tensor([0.229, 0.224, 0.225])[:, None, None]",
    "float 0 to 255": "image.float()",
}


@pytest.mark.parametrize("expression", FLOATS.values(), ids=FLOATS)
def test_floats_that_were_pixels_are_pixels_again(expression: str, write: Write) -> None:
    whole = opened(write("data = Pixels"))
    code = f"""
class data(Pixels):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return {expression}, label
"""
    source = opened(write(code))
    assert source.kind == "image"
    np.testing.assert_array_equal(pixels(source), pixels(whole))


USUAL = {"0.5": (0.5, 0.5), "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}


@pytest.mark.parametrize(("mean", "std"), USUAL.values(), ids=USUAL)
def test_photos_without_black_or_white_are_known_by_a_usual_normalize(
    mean: Any, std: Any, write: Write
) -> None:
    code = f"""
class data(Pixels):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        mean, std = (torch.tensor(v).expand(3)[:, None, None] for v in ({mean}, {std}))
        return ((40 + image // 2) / 255 - mean) / std, label
"""
    source = opened(write(code))
    assert source.kind == "image"
    np.testing.assert_array_equal(pixels(source), 40 + pixels(opened(write("data = Pixels"))) // 2)


def test_floats_that_were_none_are_tensors_unless_they_are_to_be_rounded(write: Write) -> None:
    code = "def data(): return [(torch.rand(3, 8, 8), i % 2) for i in range(20)]"
    source = opened(write(code))
    assert source.kind == "tensor"
    assert any("as they are (--kind image rounds them" in n.message for n in source.notices)
    source = opened(write(code, kind="image"))
    assert any("rounded to 8 bits" in notice.message for notice in source.notices)


# What data() gives -> kind, task, and the type of the items.
SHAPES: dict[str, tuple[str, str, str, type]] = {
    "rows": (
        "TensorDataset(torch.rand(20, 4), torch.arange(20) % 3)",
        "tabular",
        "classification",
        TableRows,
    ),
    "numbers": ("[(float(i), 2.0 * i + 0.5) for i in range(20)]", "tabular", "regression", TableRows),
    "dicts of scalars": (
        "[{'age': i, 'city': 'ab'[i % 2], 'y': i * 0.5} for i in range(20)]",
        "tabular",
        "regression",
        TableRows,
    ),
    "texts": ("[('some words', 'no'), ('other words', 'yes')] * 10", "text", "classification", Listed),
    "labels": ("[('words', ['a', 'b'][:i % 3]) for i in range(20)]", "text", "multilabel", Listed),
    "series": ("[(np.ones((9, 2)) * i, float(i)) for i in range(20)]", "series", "regression", Stacked),
    "ragged series": (
        "[{'values': np.ones((5 + i, 2)), 'label': i % 2} for i in range(20)]",
        "series",
        "classification",
        Listed,
    ),
    "pillow": (
        "[(Image.new('L', (8, 8), i), i % 2) for i in range(20)]",
        "image",
        "classification",
        Stacked,
    ),
    "pillow of any size": (
        "[(Image.new('RGB', (8 + i, 8), (i, i, i)), i % 2) for i in range(20)]",
        "image",
        "classification",
        Listed,
    ),
    "one-hot": (
        "TensorDataset(torch.rand(20, 4), torch.eye(2)[torch.arange(20) % 2])",
        "tabular",
        "classification",
        TableRows,
    ),
    "several numbers": (
        "TensorDataset(torch.rand(20, 4), torch.rand(20, 2))",
        "tabular",
        "regression",
        TableRows,
    ),
    "an image and columns": (
        "[(Image.new('RGB', (8, 8)), torch.rand(3), i / 2) for i in range(20)]",
        "tensor",
        "regression",
        TensorRows,
    ),
    "volumes": (
        "TensorDataset(torch.rand(20, 2, 3, 4, 5), torch.arange(20) % 2)",
        "tensor",
        "classification",
        TensorRows,
    ),
    "a wrapped one": (
        "Subset(ConcatDataset([Pixels(10), Pixels(10)]), range(20))",
        "image",
        "classification",
        Stacked,
    ),
    "a generator": (
        "((torch.rand(3), i % 2) for i in range(20))",
        "tabular",
        "classification",
        TableRows,
    ),
}


@pytest.mark.parametrize(("expression", "kind", "task", "items"), SHAPES.values(), ids=SHAPES)
def test_samples_decide_the_kind(
    expression: str, kind: str, task: str, items: type, write: Write
) -> None:
    source = opened(write(f"def data(): return {expression}"))
    assert (source.kind, source.task) == (kind, task)
    assert isinstance(source.splits["all"].items, items)
    assert len(source.splits["all"]) == 20
    assert any(f"read as {kind} data for {task}" in notice.message for notice in source.notices)


def test_text_pairs_are_translations_where_the_task_says_so(write: Write) -> None:
    source = opened(write("def data(): return [('a b', 'c d')] * 20", task="seq2seq"))
    assert source.kind == "pairs"
    assert source.splits["all"].items == Listed((("a b", "c d"),) * 20)


def test_classes_are_named_by_the_data_set_also_where_one_is_not_there(write: Write) -> None:
    code = """
class data(Pixels):
    classes = ["cat", "dog", "owl"]
"""
    assert opened(write(code)).class_names == ("cat", "dog", "owl")
    assert (
        opened(write(code + "def part(): return Subset(data(), range(9))", "part")).class_names[2]
        == "owl"
    )


def test_arguments_come_from_the_settings_and_paths_are_made_absolute(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    code = "def data(root, split, count): return [(root + split, i % 2) for i in range(count)]"
    source = opened(write(code, args={"root": "photos", "split": "photos", "count": 6}))
    assert source.options["args"] == {"root": f"{tmp_path}/photos", "split": "photos", "count": 6}
    assert source.splits["all"].items == Listed((f"{tmp_path}/photosphotos",) * 6)


def test_given_splits_are_kept_and_others_are_held_out(write: Write) -> None:
    code = "def data(): return {'train': Pixels(40), 'valid': Pixels(8)}"
    config = write(code)
    with allowing(config.data):
        source = open_source(config, seed=0)
        assert {name: len(part) for name, part in source.splits.items()} == {"train": 40, "val": 8}
        whole = open_source(write("data = Pixels", val_fraction=0.2), seed=0)
    assert {name: len(part) for name, part in whole.splits.items()} == {"train": 20, "val": 6, "test": 4}


def test_random_split_divides_alike_and_nobodys_generators_are_moved(write: Write) -> None:
    code = "def data(): a, b = random_split(Pixels(), [20, 10]); return {'train': a, 'test': b}"
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    first = opened(write(code))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[:2]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert opened(write(code)).fingerprint == first.fingerprint


def test_a_changed_sample_changes_the_fingerprint(write: Write) -> None:
    code = "def data(): return [(torch.full((4,), float(i == {})), i % 2) for i in range(20)]"
    assert opened(write(code.format(3))).fingerprint == opened(write(code.format(3))).fingerprint
    assert opened(write(code.format(3))).fingerprint != opened(write(code.format(4))).fingerprint


BAD_AT_17 = """
class data(Pixels):
    def __getitem__(self, index):
        if index == 17:
            raise OSError("disk on fire")
        return super().__getitem__(index)
"""


def test_a_sample_that_fails_is_left_out_and_counted(write: Write) -> None:
    source = opened(write(BAD_AT_17))
    assert len(source.splits["all"]) == 29
    assert "17" not in source.splits["all"].ids
    (message,) = [n.message for n in source.notices if n.code == "left-out"]
    assert "1 of 30 samples" in message
    assert "disk on fire, in data.py line" in message


def test_slow_reading_is_mentioned(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for least, mentioned in ((0.0, True), (1e6, False)):
        monkeypatch.setattr("dlcli.data.user_sets.listing._SLOW_S", least)
        source = opened(write("def data(): return [(torch.rand(4), i / 2) for i in range(20)]"))
        assert any("each command reads" in n.message for n in source.notices) is mentioned


def test_a_sample_without_a_target_is_left_out_and_counted(write: Write) -> None:
    code = "def data(): return [(torch.rand(4), None if i == 3 else i / 2) for i in range(20)]"
    source = opened(write(code))
    assert len(source.splits["all"]) == 19
    assert any("1 sample without a target" in notice.message for notice in source.notices)


# What the file says, the settings, and the sentence that follows.
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "import error": (
        "import nowhere_to_be_found\ndata = 1",
        {},
        r"No module named .*in data.py line \d+",
    ),
    "syntax error": ("def data(:", {}, r"cannot be run: SyntaxError.*in data.py line \d+"),
    "no such name": ("def date(): pass", {}, "has no class or function 'data'"),
    "not callable": ("data = [1, 2]", {}, "has no class or function 'data'"),
    "fails": ("def data(): return 1 / 0", {}, r"failed: ZeroDivisionError: .*in data.py line \d+"),
    "missing argument": ("def data(root): pass", {}, "is called with .* missing a required argument"),
    "unknown argument": (
        "def data(): pass",
        {"args": {"root": "x"}},
        "unknown setting .data.args.root",
    ),
    "nothing": ("def data(): pass", {}, "gave a NoneType"),
    "a path": ("def data(): return 'imgs'", {}, "gave a str"),
    "no length": ("class data(Dataset):\n    def __getitem__(self, i): return 1", {}, "without __len__"),
    "a loader": ("def data(): return DataLoader(Pixels())", {}, "gave a DataLoader"),
    "a data frame": (
        "import polars\ndef data(): return polars.DataFrame({'x': [1]})",
        {},
        "gave a DataFrame",
    ),
    "no splits": (
        "def data(): return {'old': Pixels(), 'new': Pixels()}",
        {},
        "old, new, which are not splits",
    ),
    "no train": ("def data(): return {'test': Pixels()}", {}, "but no train split"),
    "an empty dict": ("def data(): return {}", {}, "gave an empty dict"),
    "empty": ("def data(): return []", {}, "has no sample"),
    "no target": ("def data(): return [torch.rand(3)] * 20", {}, "has no target: it is torch.Tensor"),
    "no key of a target": ("def data(): return [{'x': 1, 'z': 2}] * 9", {}, "its keys are x, z"),
    "only a target": ("def data(): return [{'y': 1}] * 9", {}, "no input besides its target"),
    "unknown type": (
        "def data(): return [(object(), 1)] * 9",
        {},
        "input is object, which dlcli cannot",
    ),
    "objects": ("def data(): return [(np.array([None]), 1)] * 9", {}, "holds object, not numbers"),
    "complex": ("def data(): return [(torch.zeros(3) * 1j, 1)] * 9", {}, "holds complex64, not numbers"),
    "an image as target": (
        "def data(): return [(torch.rand(3), torch.zeros(4, 4))] * 9",
        {},
        r"its target is float32 \(4, 4\)",
    ),
    "one class": ("def data(): return [(torch.rand(3), 1)] * 9", {}, "has one value"),
    "NaN as every target": (
        "def data(): return [(torch.rand(3), np.nan)] * 9",
        {},
        "is empty in every row",
    ),
    "other inputs": (
        "def data(): return [(torch.rand(3), i) if i != 4 else ('a', i) for i in range(9)]",
        {},
        "sample 4 of .* is input text, .* where the first is input float32",
    ),
    "other axes": (
        "def data(): return [(torch.rand(*[3] * (1 + i // 5)), i) for i in range(9)]",
        {},
        "sample 5 of .* where the first is",
    ),
    "other types": (
        "def data(): return [(torch.zeros(3, 8, 8, dtype=[torch.uint8, torch.float][i // 5]), i)"
        " for i in range(9)]",
        {},
        "sample 5 of .* where the first is input uint8",
    ),
    "rows of other lengths": (
        "def data(): return [(torch.rand(3 + i), i) for i in range(9)]",
        {},
        "the same number of values in every sample",
    ),
    "targets of other forms": (
        "def data(): return [(torch.rand(3), i if i < 5 else 'a') for i in range(9)]",
        {},
        "another form of target",
    ),
    "index out of classes": ("class data(Pixels):\n    classes = ['only']", {}, "class 1 has no name"),
    "an error that may not be skipped": (
        BAD_AT_17,
        {"on_bad_sample": "fail"},
        "sample 17 of .*disk on fire",
    ),
    "an error at every sample": (
        "class data(Pixels):\n    def __getitem__(self, i): return self.lost[i]",
        {},
        "sample 0 of .*AttributeError: .*in data.py line",
    ),
    "an image that is closed": (
        "import io\nclass data(Pixels):\n    def __getitem__(self, i):\n"
        "        file = io.BytesIO(); Image.new('L', (4, 4)).save(file, 'png')\n"
        "        image = Image.open(file); file.close(); return image, i % 2",
        {},
        "sample 0 of .*ValueError",
    ),
    "a length that changes": (
        "class data(Pixels):\n    def __len__(self): self.n = getattr(self, 'n', 20) + 1; return self.n",
        {},
        "the length of .* changed while it was read, from 21",
    ),
    "a length that fails": (
        "class data(Pixels):\n    def __len__(self): return self.n",
        {},
        "the length of .* cannot be known: AttributeError",
    ),
    "a generator of its own": (
        "class data(Pixels):\n    rng = np.random.default_rng()\n"
        "    def __getitem__(self, i): return torch.from_numpy(self.rng.random(3)), i % 2",
        {},
        "differs from reading to reading",
    ),
    "ends early": (
        "class data:\n    def __len__(self): return 9\n    def __iter__(self): yield (torch.rand(3), 1)",
        {},
        "has a length of 9, but ended after 1",
    ),
    "fails midway": (
        "def data():\n    for i in range(9):\n        yield torch.rand(3), 1 // (5 - i)",
        {},
        "failed at sample 5: ZeroDivisionError: .*in data.py line",
    ),
    "never ends": (
        "import itertools\ndef data(): return ((torch.rand(3), i % 2) for i in itertools.count())",
        {},
        "has not ended after 1,000 samples",
    ),
    "a text among inputs": (
        "def data(): return [('text', torch.rand(3), i) for i in range(9)]",
        {},
        "have a text among several inputs",
    ),
    "tensors of other shapes": (
        "def data(): return [(torch.rand(3, 4, 5 + i, 2), i % 2) for i in range(9)]",
        {},
        r"input has different shapes: \(3, 4, 5, 2\) and",
    ),
    "not that kind": ("data = Pixels", {"kind": "text"}, "cannot be text data"),
    "token ids as texts": (
        "def data(): return [(torch.arange(4), torch.arange(4) % 3)] * 9",
        {"task": "seq2seq"},
        "cannot be pairs data",
    ),
    "not that task": ("data = Pixels", {"task": "forecast"}, "task 'forecast' does not apply"),
    "a setting of files": ("data = Pixels", {"target": "label"}, "--target is for files"),
}


@pytest.mark.parametrize(("code", "settings", "sentence"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_one_sentence(
    code: str,
    settings: dict[str, Any],
    sentence: str,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "MAX_ITERATED", 1_000)
    config = write(code, **settings)
    with allowing(config.data), pytest.raises(DlcliError, match=sentence) as caught:
        open_source(config, seed=0)
    assert "\n" not in caught.value.message


def test_samples_that_do_not_fit_into_memory_are_refused(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "free_memory", lambda: 1_000)
    with pytest.raises(DlcliError, match="does not fit into memory: 30 samples"):
        opened(write("data = Pixels"))


def test_code_that_only_a_file_names_does_not_run(write: Write) -> None:
    with pytest.raises(DlcliError, match="has not run this code before"):
        open_undivided(write("raise SystemExit"))


def test_arguments_are_for_code(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.args are for"):
        open_undivided(DataConfig(data="digits", args={"root": "x"}))
