"""Tables of image files as people have them: bare ids, folders next to the table, Windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import image
from tiny_data import write_csv, write_image

from dlcli.config import DataConfig
from dlcli.data.base import DataSource, Listed
from dlcli.data.images.manifest_paths import find_locator
from dlcli.data.notices import messages
from dlcli.data.sources import open_other, open_source
from dlcli.data.splits import apply_splits, write_splits
from dlcli.errors import DlcliError
from dlcli.task import TaskSpec


def photos(folder: Path, names: list[str]) -> None:
    for i, name in enumerate(names):
        write_image(folder / name, np.random.default_rng(i).integers(0, 256, (8, 8, 3)))


def opened(path: Path, **values: Any) -> DataSource:
    return open_source(DataConfig(data=str(path), **values), seed=0)


def files(source: DataSource) -> dict[str, Path]:
    out = {}
    for part in source.splits.values():
        assert isinstance(part.items, Listed)
        out |= dict(zip(part.ids, part.items.values, strict=True))
    return out


@pytest.mark.parametrize(
    "ids", [["a0f", "b1e", "c2d", "d3c", "e4b", "f5a"], list(map(str, range(1, 7)))]
)
@pytest.mark.parametrize("whole_folder", [False, True])
def test_ids_without_extension_next_to_a_folder(
    ids: list[str], whole_folder: bool, tmp_path: Path
) -> None:
    photos(tmp_path / "train", [f"{id_}.png" for id_ in ids])
    photos(tmp_path / "test", [f"{id_}x.png" for id_ in ids])
    write_csv(
        tmp_path / "labels.csv", ("id", "breed"), [(id_, "xy"[i % 2]) for i, id_ in enumerate(ids)]
    )
    write_csv(tmp_path / "sample_submission.csv", ("id", "x"), [(f"{id_}x", 0.5) for id_ in ids])
    source = opened(tmp_path if whole_folder else tmp_path / "labels.csv")
    assert source.kind == "image"
    assert source.class_names == ("x", "y")
    assert files(source) == {id_: tmp_path / "train" / f"{id_}.png" for id_ in ids}
    assert "labels.csv: its images are in train" in messages(source.notices)
    # As eval opens it: by the recorded options, in the recorded splits, or for another model.
    config = DataConfig(data=source.origin, **source.options)
    write_splits(tmp_path / "splits.json", source)
    again, changed = apply_splits(tmp_path / "splits.json", open_source(config, seed=5))
    assert not changed
    assert files(again) == files(source)
    task = TaskSpec(input=image(), class_names=("x", "y"))
    assert len(open_other(config, task).splits["all"]) == len(ids)


def test_backslashes_of_windows(tmp_path: Path) -> None:
    names = [f"img/{'ab'[i % 2]}/{i}.png" for i in range(6)]
    photos(tmp_path, names)
    rows = [(name.replace("/", "\\"), name[4]) for name in names]
    write_csv(tmp_path / "t.csv", ("path", "label"), rows)
    assert sorted(files(opened(tmp_path / "t.csv")).values()) == sorted(
        tmp_path / name for name in names
    )


def test_foreign_absolute_paths_and_files_in_a_folder_of_images(tmp_path: Path) -> None:
    photos(tmp_path / "images", [f"{i}.png" for i in range(6)])
    for prefix in ("C:\\Users\\me\\data\\", "/home/me/data/", ""):
        rows = [(f"{prefix}{i}.png", "ab"[i % 2]) for i in range(6)]
        write_csv(tmp_path / "t.csv", ("file", "label"), rows)
        found = files(opened(tmp_path / "t.csv"))
        assert sorted(found.values()) == [tmp_path / "images" / f"{i}.png" for i in range(6)]


def test_missing_files_stay_missing(tmp_path: Path) -> None:
    photos(tmp_path, [f"{i}.png" for i in range(5)])
    write_csv(tmp_path / "t.csv", ("file", "label"), [(f"{i}.png", "ab"[i % 2]) for i in range(6)])
    assert files(opened(tmp_path / "t.csv"))["5.png"] == tmp_path / "5.png"


def test_a_table_with_a_number_column_is_no_table_of_images(tmp_path: Path) -> None:
    photos(tmp_path / "plots", ["1.png", "2.png"])
    rows = [(i, i * 0.7 % 3, "ab"[i % 2]) for i in range(1, 40)]
    write_csv(tmp_path / "t.csv", ("id", "x", "label"), rows)
    assert opened(tmp_path / "t.csv").kind == "tabular"


def test_a_folder_without_class_folders_and_tables_says_so(tmp_path: Path) -> None:
    photos(tmp_path / "train", ["1.png", "2.png"])
    photos(tmp_path / "test", ["3.png"])
    with pytest.raises(DlcliError, match="no class folders in them"):
        opened(tmp_path)


def test_texts_too_long_for_names_of_files_are_no_images(tmp_path: Path) -> None:
    texts = [f"{i} {'long text ' * 100}" for i in range(4)]
    locator, share = find_locator(texts, tmp_path, "train")
    assert share == 0
    assert locator.folder == tmp_path
