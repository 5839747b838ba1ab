"""Names of the Hugging Face hub as --weights: its cache, --offline, and no network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import tiny_bert

from dlcli.cli import main
from dlcli.errors import DlcliError
from dlcli.formats.base import read_card
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import read_run
from dlcli.zoo import hub as module
from dlcli.zoo.hub import hub_folder
from dlcli.zoo.names import hub_name

hub: Any = pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, as its library lays it out, in a folder of the test."""
    folder = tmp_path / "hub"
    own = hub.snapshot_download
    monkeypatch.setattr(
        hub, "snapshot_download", lambda *args, **settings: own(*args, cache_dir=folder, **settings)
    )
    return folder


def fill(cache: Path, repository: str) -> Path:
    """A cached snapshot, whose main branch is `COMMIT`."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return tiny_bert.write_snapshot(folder / "snapshots" / COMMIT)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("owner/name", ("owner/name", None)),
        ("owner/na.me-2@main", ("owner/na.me-2", "main")),
        ("folder/file.safetensors", None),
        ("../name", None),
        ("/root/name", None),
        ("a/b/c", None),
        ("name", None),
    ],
)
def test_names_of_the_hub(text: str, named: tuple[str, str | None] | None) -> None:
    assert hub_name(text) == named


def test_a_run_records_the_revision_and_repeats_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(cache, "owner/tiny")
    tiny_bert.write_questions(tmp_path / "q.csv")
    train = ["train", "-m", "bert", "-d", "q.csv", "--device", "cpu", "-e", "1", "-q"]
    assert main([*train, "--weights", "owner/tiny", "--offline", "--name", "a"]) == 0
    named = f"owner/tiny@{COMMIT}"
    run = RunFolder(Path("runs/a"))
    assert read_card(run.best).weights_from == named
    assert read_run(run).config.model.weights == named
    assert main([*train, "--config", "runs/a/config.yaml", "--offline", "--name", "b"]) == 0
    assert read_card(Path("runs/b/best.safetensors")).weights_from == named


def test_a_snapshot_that_is_not_cached_is_fetched_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[str] = []

    def fetch(repository: str, **settings: Any) -> str:
        if settings.get("local_files_only"):
            raise hub.errors.LocalEntryNotFoundError("not cached")
        requests.append(repository)
        return str(fill(cache, repository))

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    monkeypatch.setattr(module, "require", lambda url, **words: requests.append(url))
    folder, label = hub_folder("owner/tiny@main", offline=False)
    assert (folder.name, label) == (COMMIT, f"owner/tiny@{COMMIT}")
    assert requests[0].endswith("/owner/tiny/resolve/main/config.json")
    assert requests[1:] == ["owner/tiny"]


def test_without_a_network_it_is_one_error_within_three_seconds(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DlcliError, match="not in the cache of the hub, and --offline"):
        hub_folder("owner/tiny", offline=True)
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    begin = time.monotonic()
    with pytest.raises(DlcliError, match="cannot fetch --weights owner/tiny") as error:
        hub_folder("owner/tiny", offline=False)
    assert time.monotonic() - begin < 3
    assert "--weights FOLDER" in str(error.value.hint)
