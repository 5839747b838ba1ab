"""AOTInductor packages. Compiling takes a minute: what needs none is tested on made-up archives."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from tiny import MODELS, artifact

from dlcli.card import Card
from dlcli.config import ExportConfig
from dlcli.errors import DlcliError
from dlcli.formats import aoti
from dlcli.formats.aoti import write_aoti
from dlcli.formats.base import Runtime, open_artifact, read_card, recognize, sniff_format
from dlcli.formats.torch_export import export_program, module_to_export
from dlcli.formats.zip_archive import CARD_MEMBER

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")


@pytest.mark.slow
@needs_compiler
def test_a_package_is_for_the_device_that_it_was_compiled_for(tmp_path: Path) -> None:
    before = artifact(tmp_path, "cnn")
    write_aoti(before, tmp_path / "x.aoti.pt2", ExportConfig())
    after = open_artifact(tmp_path / "x.aoti.pt2", device="cpu", threads=1)
    record = after.card.transforms[-1]
    assert (record.kind, record.args["device"]) == ("aoti", "cpu")
    with pytest.raises(DlcliError, match=r"was compiled for cpu|this machine has 0 cuda"):
        open_artifact(after.path, device="cuda")


def made_up(path: Path, **machine: Any) -> Path:
    """An archive with a card and no machine code."""
    spec, task = MODELS["cnn"]
    card = Card(model=spec, task=task)
    if machine:
        card = card.with_record("aoti", **machine)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("best/data/aotinductor/model/x.so", b"no code")
        archive.writestr(f"best/{CARD_MEMBER}", card.to_json())
    return path


def test_its_card_and_its_kind_are_known_from_the_archive(tmp_path: Path) -> None:
    path = made_up(tmp_path / "x.bin", **aoti._machine("cpu"))
    assert sniff_format(path).name == "aoti"
    assert read_card(path).task == MODELS["cnn"][1]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("machine", "m68k", "compiled for linux on m68k"),
        ("vectors", "AVX9000", "a processor with AVX9000"),
        ("device", "cuda", "compiled for cuda"),
    ],
)
def test_what_was_compiled_for_another_machine_is_not_run(
    tmp_path: Path, field: str, value: str, said: str
) -> None:
    path = made_up(tmp_path / "x.aoti.pt2", **{**aoti._machine("cpu"), "system": "linux", field: value})
    if field == "machine" and aoti._machine("cpu")["system"] != "linux":
        said = "compiled for linux"
    with pytest.raises(DlcliError, match=said):
        aoti.open_aoti(recognize(path), Runtime("cpu"))


def test_a_package_from_elsewhere_needs_trust(tmp_path: Path) -> None:
    path = made_up(tmp_path / "x.aoti.pt2", **aoti._machine("cpu"))
    with pytest.raises(DlcliError, match="was not written by your dlcli"):
        open_artifact(path, device="cpu")
    with pytest.raises(DlcliError, match="cannot load"):
        open_artifact(path, device="cpu", trust=True)


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = artifact(tmp_path, "cnn")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DlcliError, match=r"needs a C\+\+ compiler, and there is no "):
        write_aoti(before, tmp_path / "x.aoti.pt2", ExportConfig())
    assert not (tmp_path / "x.aoti.pt2").exists()


def test_recurrent_networks_become_loops_of_any_length(tmp_path: Path) -> None:
    """Unrolled, a package would read past the end of a shorter sequence."""
    for name in ("lstm", "gru"):
        module, card, sizes = module_to_export(artifact(tmp_path, name), ExportConfig())
        program = export_program(module, card, sizes)
        if Version(torch.__version__) < Version("2.12"):
            with pytest.raises(DlcliError, match="cannot compile the recurrent layers"):
                aoti._with_loops(program, card)
            continue
        program = aoti._with_loops(program, card)
        loops = [node for node in program.graph.nodes if str(node.target) == "while_loop"]
        assert len(loops) == 2  # one a direction
        assert all(isinstance(part, torch.fx.Node) for loop in loops for part in loop.args[3])
        tokens = next(node for node in program.graph.nodes if node.name == "tokens")
        assert not any(isinstance(size, int) for size in tokens.meta["val"].shape)
