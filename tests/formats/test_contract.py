"""The contract of every registered format, on tiny models of every kind of data."""

from __future__ import annotations

import importlib.util
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from full_disk import full_disk

from dlcli.card import Card
from dlcli.cli import main
from dlcli.config import ExportConfig
from dlcli.data.prepare import random_inputs
from dlcli.deploy.export import staging_folder
from dlcli.errors import DlcliError, UsageError
from dlcli.files import CannotWrite
from dlcli.formats.base import (
    FORMATS,
    Artifact,
    Format,
    ModelFile,
    open_artifact,
    read_card,
    recognize,
    sniff_format,
)
from dlcli.formats.checkpoint import save_model
from dlcli.formats.export_options import check_options

# Formats that are written in milliseconds, and those that take a minute. Of all others the default suite
# exports the QUICK models.
CHEAP = ("safetensors", "pth", "plain-safetensors", "torchscript")
COSTLY = ("aoti", "executorch")
QUICK = ("cnn", "lstm")
FIRST = "cnn"
# The largest difference of an output from the source's; of formats that keep the module it is 0.
TOLERANCE = {"torchscript": 1e-6, "pt2": 1e-6}

# Of any model; what only some models have, such as an adapter, has tests of its own.
_CARD = Card(model=tiny.MODELS[FIRST][0], task=tiny.MODELS[FIRST][1])
ENTRIES = [entry for _, entry in FORMATS.entries() if not entry.unfit(_CARD)]
EACH = pytest.mark.parametrize("entry", ENTRIES, ids=[entry.name for entry in ENTRIES])


def marks_of(entry: Format, name: str) -> list[pytest.MarkDecorator]:
    """Whether a case is slow, or its library is missing here."""
    quick = entry.name in CHEAP or (entry.name not in COSTLY and name in QUICK)
    missing = entry.module is not None and importlib.util.find_spec(entry.module) is None
    missing = missing or bool(entry.unrunnable())
    no_compiler = entry.name == "aoti" and not shutil.which("g++")
    skipped = pytest.mark.skipif(missing or no_compiler, reason=f"{entry.name} cannot be written here")
    return [skipped, *([] if quick else [pytest.mark.slow])]


def cases(names: tuple[str, ...]) -> list[object]:
    """Each format with each of the models."""
    return [
        pytest.param(entry, name, marks=marks_of(entry, name), id=f"{entry.name}-{name}")
        for entry in ENTRIES
        for name in names
        if not entry.unfit(Card(model=tiny.MODELS[name][0], task=tiny.MODELS[name][1]))
    ]


Exported = Callable[[Format, str], tuple[Artifact, Path]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A tiny model and the path of its export, in a folder of its own; written once."""

    @cache
    def export(format_name: str, name: str) -> tuple[Artifact, Path]:
        source = tiny.artifact(tmp_path_factory.mktemp("source"), name)
        entry = FORMATS.get(format_name)
        if entry.write is None:
            return source, source.path
        path = tmp_path_factory.mktemp(format_name) / f"best{entry.suffix}"
        entry.write(source, path, ExportConfig())
        return source, path

    return lambda entry, name: export(entry.name, name)


# ExecuTorch's loader warns about its own use of torch.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("entry", "name"), cases(tuple(tiny.MODELS)))
def test_an_export_is_the_model_at_any_batch_and_length(
    entry: Format, name: str, exported: Exported
) -> None:
    source, path = exported(entry, name)
    assert sniff_format(path) is entry
    opened = open_artifact(path, device="cpu")
    assert opened.format is entry
    assert opened.card == read_card(path)
    assert opened.card.task == source.card.task
    tolerance = 0 if entry.trainable else TOLERANCE.get(entry.name, 1e-5)
    assert tiny.largest_difference(source, opened) <= tolerance
    inputs = random_inputs(source.card.task, 4)
    outputs = opened.prepare_call(inputs)()  # what a benchmark times
    if isinstance(outputs, torch.Tensor):
        np.testing.assert_allclose(outputs.numpy(), opened.predict(inputs), atol=1e-6)
    if entry.trainable:  # it can be pruned, quantized and exported
        assert opened.module() is not source.module()
    else:
        with pytest.raises(DlcliError, match="no trainable model"):
            opened.module()


@pytest.mark.parametrize(("entry", "name"), cases((FIRST,)))
def test_its_size_is_that_of_its_files(entry: Format, name: str, exported: Exported) -> None:
    _, path = exported(entry, name)
    files = [file for file in path.parent.rglob("*") if file.is_file()]
    file = recognize(path)
    assert sorted(file.files) == sorted(files)
    assert file.size == open_artifact(path, device="cpu").size == sum(f.stat().st_size for f in files)


@pytest.mark.parametrize(("entry", "name"), cases((FIRST,)))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(
    entry: Format, name: str, share: float, exported: Exported, tmp_path: Path
) -> None:
    _, path = exported(entry, name)
    for part in recognize(path).files:
        folder = tmp_path / part.name
        shutil.copytree(path.parent, folder)
        data = part.read_bytes()
        (folder / part.relative_to(path.parent)).write_bytes(data[: int(len(data) * share)])
        with pytest.raises(DlcliError):
            open_artifact(folder / path.name, device="cpu", trust=True)


@pytest.mark.parametrize(("entry", "name"), cases((FIRST,)))
def test_a_full_disk_is_said_of_the_file_and_leaves_nothing(
    entry: Format, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny.artifact(tmp_path / "source", name)
    write = entry.write or (lambda source, path, _: save_model(path, source.module(), source.card))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    target = tmp_path / "target" / f"best{entry.suffix}"
    with (
        full_disk(1000),
        pytest.raises(CannotWrite, match="File too large") as caught,
        staging_folder(target) as folder,
    ):
        write(source, folder / target.name, ExportConfig())
    assert caught.value.path in (target, tmp_path / "temporary")
    assert not [*target.parent.iterdir(), *(tmp_path / "temporary").glob("dlcli-*")]


@pytest.mark.parametrize(("entry", "name"), cases((FIRST,)))
def test_info_notices_each_changed_bit(
    entry: Format, name: str, exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = exported(entry, name)
    folder = shutil.copytree(path.parent, tmp_path / "copy")
    argv = ["info", str(folder / path.name)]
    assert main(argv) == 0
    assert "matches its digest" in capsys.readouterr().out
    rng = random.Random(0)
    for part in recognize(path).files:
        data, copy = part.read_bytes(), folder / part.relative_to(path.parent)
        tail = range(max(0, len(data) - 90), len(data), 9)
        for at in (0, min(30, len(data) - 1), *tail, *(rng.randrange(len(data)) for _ in range(10))):
            changed = bytearray(data)
            changed[at] ^= 1 << rng.randrange(8)
            copy.write_bytes(changed)
            assert main(argv) == 1, (part.name, at)
        copy.write_bytes(data)
    assert main(argv) == 0


@pytest.mark.parametrize(("entry", "name"), cases((FIRST,)))
def test_what_can_run_code_needs_trust_where_it_was_not_written(
    entry: Format, name: str, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = exported(entry, name)
    folder = shutil.copytree(path.parent, tmp_path / "moved")
    moved = folder / path.name
    open_artifact(moved, device="cpu")  # its bytes count, not its place
    monkeypatch.setenv("DLCLI_STATE", str(tmp_path / "state"))
    if entry.runs_code:
        with pytest.raises(DlcliError, match="was not written by your dlcli") as caught:
            open_artifact(moved, device="cpu")
        assert "--trust" in (caught.value.hint or "")
        open_artifact(moved, device="cpu", trust=True)
    open_artifact(moved, device="cpu")
    assert (tmp_path / "state").exists() == entry.runs_code


def test_cards_are_read_without_the_libraries_that_run_the_models(exported: Exported) -> None:
    entries = [
        entry
        for entry in ENTRIES
        if entry.name not in COSTLY and not any(mark.args[0] for mark in marks_of(entry, FIRST)[:1])
    ]
    paths = [str(exported(entry, FIRST)[1]) for entry in entries]
    code = (
        "import sys\nfrom pathlib import Path\nfrom dlcli.formats.base import read_card\n"
        "for path in sys.argv[1:]:\n    print(read_card(Path(path)).model.name)\n"
        "print({'torch', 'onnxruntime', 'openvino'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cnn"] * len(paths) + ["set()"]


@EACH
def test_a_foreign_file_is_not_taken_for_it(entry: Format, tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"a,b\n1,2\n", bytes(range(256)), b"PK\x03\x04" + bytes(60))):
        path = tmp_path / f"{number}{entry.suffix}"
        path.write_bytes(content)
        with pytest.raises(DlcliError):
            sniff_format(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DlcliError):
        sniff_format(tmp_path / "folder")


@EACH
def test_its_entry_is_whole(entry: Format) -> None:
    assert FORMATS.get(entry.name) is entry
    assert entry.suffix.startswith(".")
    others = [other for _, other in FORMATS.entries() if other is not entry]
    assert entry.suffix not in {other.suffix for other in others}
    assert (entry.extra is None) == (entry.module is None)
    assert entry.options <= set(ExportConfig.model_fields)
    assert entry.write is not None or not entry.options


@EACH
@pytest.mark.parametrize("option", sorted({o for _, entry in FORMATS.entries() for o in entry.options}))
def test_it_refuses_options_that_it_does_not_honour(entry: Format, option: str) -> None:
    default = ExportConfig.model_fields[option].default
    values = {"opset": 17, "ir_version": 8, "runtime": "onnxruntime==1.16", "device": "cuda"}
    other = not default if isinstance(default, bool) else values[option]
    config = ExportConfig.model_validate({option: other})
    if option in entry.options:
        check_options(entry, config)
    else:
        with pytest.raises(UsageError, match="has no effect on"):
            check_options(entry, config)


@pytest.mark.skipif(
    all(
        entry.module is None or importlib.util.find_spec(entry.module) for _, entry in FORMATS.entries()
    ),
    reason="all libraries are installed",
)
def test_a_missing_library_is_named_with_its_pip_line(tmp_path: Path) -> None:
    for _, entry in FORMATS.entries():
        if entry.module is not None and importlib.util.find_spec(entry.module) is None:
            with pytest.raises(DlcliError, match=f"{entry.module}, which is not installed") as caught:
                open_artifact(ModelFile(tmp_path / "x", entry), device="cpu", trust=True)
            assert caught.value.hint == f'python -m pip install "dlcli[{entry.extra}]"'
