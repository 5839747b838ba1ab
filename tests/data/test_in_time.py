"""Tables in time that are read as samples: a note on the random split, none on dates of other sorts."""

from __future__ import annotations

import datetime
import random
import shlex
from pathlib import Path

import pytest

from dlcli.config import DataConfig
from dlcli.data.sources import open_source
from dlcli.errors import DlcliError

DAY = datetime.timedelta(days=1)
START = datetime.date(2020, 1, 1)
Row = tuple[object, ...]


def written(folder: Path, header: str, rows: list[Row]) -> Path:
    path = folder / "data.csv"
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def notes(path: Path, **settings: object) -> list[str]:
    config = DataConfig.model_validate({"data": str(path), **settings})
    messages = [notice.message for notice in open_source(config, seed=0).notices]
    return [message for message in messages if "the split is at random" in message]


def series(count: int = 200, per_day: int = 1) -> list[Row]:
    draw = random.Random(0)
    days = [START + DAY * i for i in range(count) for _ in range(per_day)]
    return [(day, draw.choice("ab"), round(draw.random(), 3)) for day in days]


def test_a_table_with_a_time_column_is_divided_in_time(tmp_path: Path) -> None:
    rows = series()
    random.Random(1).shuffle(rows)
    path = written(tmp_path, "day,shop,sold", rows)
    config = {"data": str(path), "kind": "tabular", "time_column": "day", "target": "sold"}
    source = open_source(DataConfig.model_validate(config), seed=0)
    days = {name: [str(rows[int(id_)][0]) for id_ in part.ids] for name, part in source.splits.items()}
    assert {name: len(own) for name, own in days.items()} == {"train": 160, "val": 20, "test": 20}
    assert max(days["train"]) < min(days["val"])
    assert max(days["val"]) < min(days["test"])
    assert not any("at random" in notice.message for notice in source.notices)
    for column, words in (("shop", "not all times"), ("shopp", "shopp")):
        with pytest.raises(DlcliError, match=words):
            open_source(DataConfig.model_validate({**config, "time_column": column}), seed=0)


def test_one_regular_series_gets_the_command_of_its_forecast(tmp_path: Path) -> None:
    path = written(tmp_path, "day,shop,sold", series())
    (note,) = notes(path)
    assert "although 'day' is a time" in note
    command = shlex.split(note[note.index("dlcli ") :])
    typed = dict(zip(command[2::2], command[3::2], strict=True))
    assert typed.pop("--model") == "lstm"
    settings = {flag[2:]: value for flag, value in typed.items()}
    source = open_source(DataConfig.model_validate(settings), seed=0)
    assert (source.kind, source.task, source.target_names) == ("series", "forecast", ("sold",))


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_panel_without_a_column_of_series_is_told(tmp_path: Path, shuffled: bool) -> None:
    rows = [(day, value) for day, _, value in series(100, per_day=3)]
    if shuffled:
        random.Random(1).shuffle(rows)
    (note,) = notes(written(tmp_path, "ds,y", list(rows)))
    assert "3 rows share each time" in note
    assert "--series-column" in note


def test_rows_in_the_order_of_irregular_times_get_a_note_without_a_forecast(tmp_path: Path) -> None:
    rows = [row for row in series(300) if random.Random(str(row[0])).random() < 0.5]
    (note,) = notes(written(tmp_path, "ordered,item,price", rows))
    assert "--kind series" not in note


def dates_at_random(count: int = 300) -> list[Row]:
    draw = random.Random(2)
    return [(START + DAY * draw.randrange(150), draw.choice("ab"), draw.random()) for _ in range(count)]


def test_dates_in_any_order_get_no_note(tmp_path: Path) -> None:
    assert not notes(written(tmp_path, "born,sex,height", dates_at_random()))


def test_classes_and_groups_get_no_note(tmp_path: Path) -> None:
    path = written(tmp_path, "day,shop,sold", series())
    assert not notes(path, target="shop")
    pairs = [(*row, i // 2) for i, row in enumerate(series())]
    assert not notes(written(tmp_path, "day,shop,sold,pair", pairs), target="sold", group_column="pair")
