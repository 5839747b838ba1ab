"""The programs in Python: run without dlcli, they answer as `predict` does, to 1e-5."""

from __future__ import annotations

import ast
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from graphs import write_graph
from histories import HISTORY_TASK, histories
from odd_texts import ODD_TEXTS

from dlcli.card import Card, ModelSpec
from dlcli.config import DataConfig, ExportConfig
from dlcli.data.kinds import ReadOptions, kind_of
from dlcli.data.text.tokens import fit_text
from dlcli.deploy.ship.program import agrees
from dlcli.errors import UsageError
from dlcli.evaluation.predict import predict
from dlcli.formats.base import FORMATS, open_artifact
from dlcli.formats.static_shape import requested_sizes, with_sizes
from dlcli.task import (
    CategoryColumn,
    NumberColumn,
    SeriesScale,
    TabularInput,
    TaskSpec,
    TextInput,
    Thresholds,
)

PYTHON = FORMATS.get("onnx").examples["python"]
TEXTS = [*filter(None, ODD_TEXTS), "a </s> [SEP]"]


class Compared:
    """A model of a task and its program, in a folder; called with arguments, both are asked."""

    def __init__(self, folder: Path, task: TaskSpec, config: ExportConfig | None = None) -> None:
        card = Card(model=ModelSpec(name="mlp"), task=task)
        card = with_sizes(card, requested_sizes(config or ExportConfig(), task))
        self.task, self.path = task, folder / "best.onnx"
        write_graph(self.path, card)
        PYTHON.check(card, embedded=False)
        self.program = folder / "predict_onnx.py"
        self.program.write_text(PYTHON.write(self.path, card), encoding="utf-8")

    def run(self, *arguments: str) -> list[dict[str, Any]]:
        """What the program prints."""
        with pytest.MonkeyPatch.context() as patch:
            lines: list[str] = []
            patch.setattr(sys, "argv", [str(self.program), *arguments])
            runpy.run_path(str(self.program), {"print": lines.append})
        return [json.loads(line) for line in lines]

    def check(self, *arguments: str, count: int) -> None:
        """Compare its answers with those of `predict`, which reads the same arguments."""
        kind = kind_of(self.task)
        artifact = open_artifact(self.path, device="cpu")
        reader = kind.reader(kind.inputs(arguments, self.task), self.task, ReadOptions())
        rows = [one.rows for one in predict(artifact.predict, reader, self.task)]
        answers = self.run(*arguments)
        assert len(answers) == len(rows) == count
        assert len({json.dumps({**one, "input": ""}) for one in answers}) > 1 or count == 1
        for answer, own in zip(answers, rows, strict=True):
            assert agrees(answer, own, self.task, tolerance=1e-5), (answer, own)


def tokenizer_file() -> str:
    """A tokenizer as pretrained weights have one: pieces of words, with special tokens around texts."""
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cap", "##ital", "of", "pe", "##ru", "?"]
    words += ["long", "word", "##s", "it", "'", "ll", "a", "b", "c"]
    vocabulary = {word: i for i, word in enumerate(words)}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return str(made.to_str())


def text_input(tokenizer: str, **fields: Any) -> TextInput:
    if tokenizer == "file":
        from dlcli.data.text.pretrained import read_tokenizer

        spec = read_tokenizer(tokenizer_file(), "here", longest=9)
    else:
        config = DataConfig(
            tokenizer=tokenizer, vocab_size=300, max_length=9, lowercase=tokenizer == "bpe"
        )
        spec, _ = fit_text([*ODD_TEXTS, "it is a word"] * 2, config)
    return spec.model_copy(update=fields)


@pytest.mark.parametrize("tokenizer", ["word", "bpe", "file"])
def test_texts_are_answered_as_by_predict(tokenizer: str, tmp_path: Path) -> None:
    task = tiny.make_task(text_input(tokenizer), classes="ab")
    both = Compared(tmp_path, task.with_thresholds(Thresholds(values=(0.4,), metric="f1", samples=9)))
    both.check(*TEXTS, count=len(TEXTS))
    imported = {
        name.name.partition(".")[0]
        for node in ast.walk(ast.parse(both.program.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
    }
    own = {"numpy", "onnxruntime", "tokenizers"} - ({"tokenizers"} if tokenizer == "word" else set())
    assert imported - set(sys.stdlib_module_names) == own
    types = tokenizer == "file"
    spec = text_input(tokenizer, pair=True, token_types=types)
    pairs = [f"{one.replace(chr(9), ' ')}\t{other.replace(chr(9), ' ')}"
             for one, other in zip(TEXTS, TEXTS[::-1], strict=True)]  # fmt: skip
    both = Compared(tmp_path, tiny.make_task(spec, "regression"))
    both.check(*pairs, count=len(pairs))
    with pytest.raises(SystemExit, match="is no pair"):
        both.run("one text")
    static = ExportConfig(dynamic=False, batch_size=2, length=5)
    both = Compared(tmp_path, tiny.make_task(text_input(tokenizer), "multilabel"), static)
    both.check(*TEXTS, count=len(TEXTS))


def test_rows_are_answered_as_by_predict_without_a_graph_that_prepares_them(tmp_path: Path) -> None:
    """Cells as people write them: what is not written as its column is missing."""
    number = {"mean": 2.0, "std": 3.0, "fill": 1.0}
    spec = TabularInput(
        numbers=(
            NumberColumn(name="plain", indicator=True, **number),
            NumberColumn(name="log", log=True, format="1234.5", **number),
            NumberColumn(name="price", format="1.234,5€", **number),
            NumberColumn(name="share", format="1234.5%", **number),
            NumberColumn(name="day", format="%d/%m/%Y", mean=1.7e9, std=1e8, fill=1.7e9),
            NumberColumn(
                name="day (of the week)", column="day", format="%d/%m/%Y", period=604_800.0, phase=0.25
            ),
        ),
        categories=(CategoryColumn(name="town", values=("Rome", "São Paulo")),),
    )
    cells = [
        '1.5,"1,234",1.234€,5%,31/01/2024,Rome',
        '-2e1,0x64,"1.234,5",5,1/2/2024,Sa\u0303o Paulo',
        'NA,-7,"(12,50 €)",0,,Oslo',
        "inf,12 apples,\u22123€,1.5 %,2024-01-31, Rome ",
        "1_000,nan,x,,29/02/2024,",
        '"1e3",+.5,€ 7,50%,01/01/1970,rome',
    ]
    table = tmp_path / "new.csv"
    table.write_text("plain,log,price,share,day,town\n" + "\n".join(cells) + "\n", encoding="utf-8")
    both = Compared(tmp_path, tiny.make_task(spec, "regression", targets=("y", "z")))
    both.check(str(table), count=len(cells))
    (tmp_path / "short.csv").write_text("plain,log\n1,2\n")
    with pytest.raises(SystemExit, match="no column 'price'"):
        both.run(str(tmp_path / "short.csv"))


@pytest.mark.parametrize("varies", [True, False])
def test_series_are_answered_as_by_predict(varies: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one, two = (
        Compared(tmp_path, tiny.make_task(spec, kind))
        for spec, kind in (
            (tiny.series("u", 10, varies=varies, mean=(0.5,), std=(2.0,)), "classification"),
            (tiny.series("uv", 10, varies=varies, mean=(1.0, -1.0), std=(2.0, 0.5)), "regression"),
        )
        if (tmp_path := tmp_path / kind).mkdir() is None
    )
    values = rng.normal(size=(5, 10, 2))
    values[rng.random(values.shape) < 0.3] = np.nan
    values[0, :, 1] = np.nan  # a channel without a value
    values[:, -1] = 1.0
    if varies:
        values[1, 6:] = np.nan
    np.save(tmp_path / "x.npy", values.astype(np.float32))
    two.check(str(tmp_path / "x.npy"), count=5)
    lines = [":".join(",".join(map(str, row)) for row in x.T).replace("nan", "?") + ":a" for x in values]
    head = "# a comment\n@problemName x\n@timeStamps false\n@classLabel true a b\n@data\n"
    (tmp_path / "x.ts").write_text(head + "\n".join(lines) + "\n")
    two.check(str(tmp_path / "x.ts"), count=5)
    rows = ["\t".join(["1", *map(str, x[:, 0])]) for x in values]
    (tmp_path / "x.tsv").write_text("\n".join(rows) + "\n")
    one.check(str(tmp_path / "x.tsv"), count=5)
    np.save(tmp_path / "x.npy", values[:, :, 0])
    one.check(str(tmp_path / "x.npy"), count=5)
    with pytest.raises(SystemExit, match="the model takes"):
        two.run(str(tmp_path / "x.npy"))
    if varies:
        static = ExportConfig(dynamic=False, length=7)
        Compared(tmp_path, one.task, static).check(str(tmp_path / "x.npy"), count=5)


@pytest.mark.parametrize("several", [False, True])
def test_forecasts_are_those_of_predict(several: bool, tmp_path: Path) -> None:
    """The rows newest first, with gaps; several series have scales of their own, one of them unseen."""
    rng = np.random.default_rng(0)
    fields: dict[str, Any] = {"mean": (5.0, -1.0), "std": (2.0, 3.0)}
    if several:
        scale = SeriesScale(id="a/1", mean=(5.0, 2.0), std=(4.0, 0.5))
        fields = {"series": (scale,), "series_column": "shop,size"}
    task = tiny.make_task(tiny.series("uv", 6, **fields), "forecast", targets=("v", "u"), horizon=3)
    both = Compared(tmp_path, task)
    lines = [
        f"2024-01-{day:02},{rng.normal() if day % 4 else ''},{'NA' if day < 3 else day},{shop},{size}"
        for shop, size in (("a", 1), ("b", 2))[: 1 + several]
        for day in range(20, 0, -1)
    ]
    table = tmp_path / "history.csv"
    table.write_text("day,u,v,shop,size\n" + "\n".join(lines) + "\n")
    both.check(str(table), count=1 + several)
    for text, reason in (
        ("u,v,shop,size\n" + '"1,5",2,a,1\n' * 9, "is not written as a number"),
        ("u,v,shop,size\n1,2,a,1\n", "the model reads 6 rows"),
        ("day,time,u,v,shop,size\n" + "2024-01-01,10:00,1,2,a,1\n" * 9, "the times of time in day"),
        ("day,u,v,shop,size\n" + "31.1.2024,1,2,a,1\n" * 9, "in day, and all below it, is not written"),
        ("ds,u,v,shop,size\n" + "2024-01-01,1,2,a,1\n,1,2,a,1\n" * 9, "is not written as 2024-01-31"),
        (
            "time,u,v,shop,size\n" + "".join(f"{i * 7 % 9},1,2,a,1\n" for i in range(9)),
            "rises and falls",
        ),
        ("time,u,v,shop,size\n" + "2,1,2,a,1\n,1,2,a,1\n" * 9, "rows without 'time'"),
        ("u,v,shop,size\n1e50,2,a,1\n" + "1,2,a,1\n" * 9, "overflows"),
        ("u\n1\n", "no column 'v'"),
    ):
        table.write_text(text)
        with pytest.raises(SystemExit, match=reason):
            both.run(str(table))


def test_the_time_column_is_that_of_predict(tmp_path: Path) -> None:
    """Columns of a history next to its channels u and ds: each table has another order of its rows."""
    both = Compared(tmp_path, HISTORY_TASK)
    for number, text in enumerate(histories()):
        table = tmp_path / f"{number}.csv"
        table.write_text(text)
        both.check(str(table), count=1)
    table.write_text("day,u,ds\n" + "2024-01-01,1,2\n" * 8)
    with pytest.raises(SystemExit, match="no column to name the series"):
        both.run(str(table))


def test_what_no_short_program_can_ask_is_refused() -> None:
    for name in ("seq2seq", "tensors"):
        spec, task = tiny.MODELS[name]
        with pytest.raises(UsageError, match="is for images, tables, texts and series"):
            PYTHON.check(Card(model=spec, task=task), embedded=False)
