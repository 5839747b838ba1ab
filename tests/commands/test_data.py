"""`dlcli data`: the screen, the JSON object, the exit code, the plots and where they may go."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dlcli.cli import main

CSV = "size,colour,price\n" + "".join(
    f"{i * 7 % 50 + i / 100},{'red' if i % 3 else 'green'},{i * 13 % 71 + 0.5}\n" for i in range(90)
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a clean table outside it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "houses.csv").write_text(CSV)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> tuple[str, str]:
    got = main(["data", *args])
    out, err = capsys.readouterr()
    assert got == code, err
    return out, err


def as_json(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> dict[str, Any]:
    out, _ = run(capsys, *args, "--json", code=code)
    found: dict[str, Any] = json.loads(out)
    return found


def test_json_holds_the_report_and_the_plots(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_json(capsys, "../data/houses.csv")["plots"] == []
    assert list(Path().iterdir()) == []  # nothing that was not asked for
    found = as_json(capsys, "../data/houses.csv", "--plots", "p")
    assert found["plots"]
    assert {"schema", "command", "kind", "task", "splits", "findings", "plots"} <= set(found)
    assert (found["command"], found["kind"], found["task"]) == ("data", "tabular", "regression")
    assert sum(split["samples"] for split in found["splits"].values()) == 90
    assert [Path(plot).parent.name for plot in found["plots"]] == ["p"] * len(found["plots"])
    for plot in found["plots"]:
        with Image.open(plot) as picture:
            assert min(picture.size) > 100
    assert {row["column"] for row in found["tables"]["numbers"]} == {"size"}


def test_errors_in_the_data_end_with_1_and_are_in_the_json(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["text,label", *(f"question {i} about it,{'ab'[i % 2]}" for i in range(30))]
    (here / "data" / "q").mkdir()
    (here / "data" / "q" / "train.csv").write_text("\n".join(rows))
    (here / "data" / "q" / "test.csv").write_text("\n".join(["text,label", *rows[4:8]]))
    found = as_json(capsys, "../data/q", "--no-plots", code=1)
    assert found["errors"] == 1
    assert found["plots"] == []
    assert [f["code"] for f in found["findings"] if f["level"] == "error"] == ["leak"]
    out, err = run(capsys, "../data/q", "--no-plots", code=1)
    assert "4 texts of the 4 in test are in train too" in out
    assert err.startswith("error: q: 1 error in the data (leak)\n\nhint: ")


def test_data_that_cannot_be_opened_is_a_finding_in_json(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = here / "data" / "load.csv"
    path.write_text("date,load\n" + "".join(f"2024-01-{d:02},{d}.5\n" * 2 for d in range(1, 30)))
    args = (str(path), "--window", "4", "--horizon", "2")
    found = as_json(capsys, *args, code=1)
    assert [f["code"] for f in found["findings"]] == ["cannot-be-read"]
    assert "several rows have the time 2024-01-01" in found["findings"][0]["message"]
    out, err = run(capsys, *args, code=1)
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err


@pytest.mark.parametrize("width", [80, 140])
def test_the_screen_fits(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    names = [f"a_long_name_of_a_column_{i}" for i in range(6)]
    lines = [",".join([*names, "words", "y"])]
    lines += [",".join([*(f"{i * k % 97}.{i:03}" for k in range(2, 8)), f"[red]w{i % 4}[/]",
                        f"{i * 17 % 89}.25"])
              for i in range(80)]  # fmt: skip
    (here / "data" / "wide.csv").write_text("\n".join(lines))
    monkeypatch.setenv("COLUMNS", str(width))
    out, _ = run(capsys, "../data/wide.csv", "--no-plots")
    assert max(map(len, out.splitlines())) <= width
    assert "[red]w0[/]" in out
    assert all(name in out for name in names)


def test_options_say_what_the_data_means(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "../data/houses.csv", "--target", "colour", "--no-plots")
    assert found["task"] == "classification"
    assert set(found["splits"]["train"]["classes"]) == {"red", "green"}
    dropped = as_json(capsys, "../data/houses.csv", "--set", "data.drop=[colour]", "--no-plots")
    assert "words" not in dropped["tables"]
    config = here / "work" / "c.yaml"
    config.write_text("data: {data: elsewhere, target: colour}\n")
    from_file = as_json(capsys, "../data/houses.csv", "--config", str(config), "--no-plots")
    assert from_file["task"] == "classification"  # PATH is what is looked at


def test_nothing_is_written_into_the_data(
    here: Path, capsys: pytest.CaptureFixture[str], photo_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    root = photo_folder(per_class=6)
    before = sorted(root.rglob("*"))
    _, err = run(capsys, str(root), "--output", str(root / "plots"), code=2)
    assert "is in the data folder" in err
    (here / "work" / "link").symlink_to(root)
    run(capsys, str(root), "--output", "link/plots", code=2)
    monkeypatch.chdir(root)
    out, err = run(capsys, ".")
    assert "plots\n" not in out
    _, err = run(capsys, ".", "--show-augment", code=2)
    assert "the current folder is in the data folder" in err
    assert sorted(root.rglob("*")) == before


def test_show_augment_draws_what_the_model_sees(
    here: Path, capsys: pytest.CaptureFixture[str], photo_folder: Callable[..., Path]
) -> None:
    root = photo_folder(per_class=6)
    found = as_json(capsys, str(root), "--show-augment", "--img-size", "32")
    assert found["checked"] is False
    assert "crop_scale 0.5" in found["augmentation"]  # the standard level
    (plot,) = found["plots"]
    with Image.open(plot) as picture:
        assert picture.size[0] > 800  # an original and six epochs
    none = as_json(capsys, str(root), "--show-augment", "--augment", "none", "--output", "none")
    assert none["augmentation"] == "augmentation: none"
    with Image.open(none["plots"][0]) as picture:
        assert picture.size[0] < 400  # originals alone


def test_show_augment_is_for_images(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = run(capsys, "../data/houses.csv", "--show-augment", code=2)
    assert "for images" in err
    _, err = run(capsys, "../data/houses.csv", "--img-size", "32", code=2)
    assert "--img-size is for images" in err
    for flag in ("--show-augment", "--plots=p"):
        _, err = run(capsys, "../data/houses.csv", flag, "--no-plots", code=2)
        assert "writes a plot, and --no-plots forbids it" in err


def test_a_table_is_looked_at_without_torch(here: Path) -> None:
    code = (
        "import sys\nfrom dlcli.cli import main\n"
        "code = main(['data', '../data/houses.csv', '--quiet'])\n"
        "sys.exit(code or ('torch' in sys.modules and 'torch was imported'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_data_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = run(capsys, "../data/housse.csv", code=1)
    assert "houses.csv" in err


def test_the_series_of_a_long_table_are_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"2024-01-{d:02},{s},{d % 5 + s}.5" for d in range(1, 29) for s in range(3)]
    (here / "data" / "sales.csv").write_text("\n".join(["day,shop,sold", *rows]))
    args = (str(here / "data" / "sales.csv"), "--window", "4", "--horizon", "2")
    report = as_json(capsys, *args, "--series-column", "shop")
    assert report["kind"] == "series"
    out, _ = run(capsys, *args, "--series-column", "shop")
    assert "series    3" in out


def test_the_cache_is_shown_and_cleared(
    here: Path, capsys: pytest.CaptureFixture[str], photo_folder: Callable[..., Path]
) -> None:
    from dlcli.commands.info import _image_cache
    from dlcli.pixels.cache.folder import CacheFolder
    from dlcli.pixels.cache.shards import ShardWriter

    cache = here / "cache"
    writer = ShardWriter(cache / ("a" * 32), 4)
    writer.add(bytes(range(16)), np.zeros((2, 2, 1), dtype=np.uint8))
    writer.finish()
    (cache / "mine.txt").write_text("mine")
    size = CacheFolder(cache).size()
    out, _ = run(capsys, "--clear-cache", "--cache-dir", str(cache))
    assert out.split() == [str(size), *f"B of decoded images deleted from {cache}".split()]
    out, _ = run(capsys, "--clear-cache", "--cache-dir", str(cache))
    assert out.startswith("no decoded images in")
    assert [path.name for path in cache.iterdir()] == ["mine.txt"]
    shown = as_json(capsys, "--clear-cache")
    assert shown["freed_bytes"] >= 0
    place = _image_cache()
    assert place is not None
    assert shown["cache_dir"] == place["dir"]
    assert place["size_bytes"] == 0 < place["limit_bytes"]
    for arguments, words in (
        ([str(photo_folder()), "--clear-cache"], "--clear-cache deletes the whole cache"),
        ([], "PATH is missing"),
        ([str(photo_folder(name="b")), "--cache-dir", "x"], "--cache-dir is for --clear-cache"),
    ):
        _, err = run(capsys, *arguments, code=2)
        assert words in err
