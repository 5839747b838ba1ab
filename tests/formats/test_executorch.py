"""ExecuTorch files: of one size, with the card after the program."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from tiny import MODELS, artifact, largest_difference

from dlcli.card import Card
from dlcli.config import ExportConfig
from dlcli.errors import DlcliError
from dlcli.formats.base import Runtime, open_artifact, read_card, recognize, sniff_format
from dlcli.formats.executorch import card_suffix, open_executorch, write_executorch

installed = importlib.util.find_spec("executorch") is not None


@pytest.mark.slow
@pytest.mark.skipif(not installed, reason="executorch is not installed")
# Its loader warns about its own use of torch.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["cnn", "series", "seq2seq"])
def test_a_program_of_three_samples_takes_any_batch(name: str, tmp_path: Path) -> None:
    before = artifact(tmp_path, name)
    write_executorch(before, tmp_path / "x.pte", ExportConfig(batch_size=3))
    after = open_artifact(tmp_path / "x.pte", device="cpu")
    assert after.card.transforms[0].args["batch"] == 3
    assert largest_difference(before, after) < 1e-5


def made_up(path: Path) -> Card:
    """A program of nothing, with a card after it."""
    spec, task = MODELS["cnn"]
    card = Card(model=spec, task=task)
    program = b"\0\0\0\0ET12" + bytes(64)
    path.write_bytes(program + card_suffix(program, card))
    return card


def test_the_card_is_read_without_the_package(tmp_path: Path) -> None:
    card = made_up(tmp_path / "x.bin")
    assert sniff_format(tmp_path / "x.bin").name == "executorch"
    assert read_card(tmp_path / "x.bin") == card


def test_a_changed_program_is_found(tmp_path: Path) -> None:
    made_up(tmp_path / "x.pte")
    data = bytearray((tmp_path / "x.pte").read_bytes())
    data[20] ^= 1
    (tmp_path / "x.pte").write_bytes(data)
    with pytest.raises(DlcliError, match="does not match the SHA-256"):
        open_executorch(recognize(tmp_path / "x.pte"), Runtime("cpu"))


def test_a_text_that_begins_a_little_like_one_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("The ETA of the train is unknown.")
    with pytest.raises(DlcliError, match="is not a model file"):
        sniff_format(tmp_path / "x.txt")


def test_without_a_card_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.pte").write_bytes(b"\0\0\0\0ET12" + bytes(64))
    with pytest.raises(DlcliError, match="without a dlcli card"):
        read_card(tmp_path / "x.pte")
