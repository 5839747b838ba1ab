"""Commands of README and `docs/`, run as they stand but for a smaller model and fewer epochs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from document_commands import BOUNDS, smaller, write_data

from dlcli import cli
from dlcli.cli import main
from dlcli.registry import declared_names

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = (README, *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/tutorials/*.md")))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKED = 24  # blocks that are not run; a new one needs a reason, and this number
# Options of pip, pytest, Docker and Slurm.
OTHERS = {
    *("--index-url", "--dist", "--build-arg", "--rm", "--user", "--shm-size", "--data-binary"),
    *("--no-cache-dir", "--create-home", "--start-period", "--no-deps", "--wheel-dir"),
    *("--model-repository", "--directory"),
    *(
        "--nodes",
        "--ntasks-per-node",
        "--gpus-per-node",
        "--cpus-per-task",
        "--time",
        "--signal",
        "--requeue",
    ),
}
MARK = re.compile(r"<!-- not run by a test: .+ -->")


def blocks(document: Path) -> list[tuple[str, bool]]:
    """Every indented block of a page, and whether a mark before it says why it is not run."""
    found: list[tuple[str, bool]] = []
    paragraphs = FENCED.sub("", document.read_text(encoding="utf-8")).split("\n\n")
    for before, paragraph in zip(["", *paragraphs], paragraphs, strict=False):
        if paragraph.strip("\n").startswith("    "):
            if found and before.strip("\n").startswith("    "):  # a blank line within a block
                continue
            found.append((paragraph.strip("\n"), bool(MARK.search(before))))
    return found


BLOCKS = [(page, text, marked) for page in DOCUMENTS for text, marked in blocks(page)]
# Their commands take minutes together; other tests run what is in them too.
SLOW = {
    "compression",
    "explain",
    "folds",
    "howto",
    "own-code",
    "scripts",
    "several-devices",
    "ship",
    "tune",
}
# What takes long in the pages of tutorials, whose other blocks are run by default.
LONG = re.compile(r"dlcli (export|quantize|explain)\b|--baselines|\| dlcli|pairs.csv -")


def is_slow(page: Path, text: str) -> bool:
    return page.stem in SLOW or (page.parent.name == "tutorials" and bool(LONG.search(text)))


RUN = [
    pytest.param(
        text,
        id=f"{page.stem}-{text.split()[1]}",
        marks=[pytest.mark.slow] if is_slow(page, text) else [],
    )
    for page, text, marked in BLOCKS
    if not marked
]


def words_of(*documents: Path) -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in documents)


def write_files(folder: Path) -> None:
    """Write the Python files of the pages, each of which begins with its name: ``# net.py``."""
    for language, code in FENCED.findall(words_of(*DOCUMENTS)):
        if language == "python":
            (folder / code.splitlines()[0].removeprefix("# ")).write_text(code)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data and the files that the commands name."""
    root = tmp_path_factory.mktemp("readme")
    write_files(root)
    write_data(root)
    return root


def test_every_option_that_documents_name_is_one() -> None:
    text = words_of(*(page for page in DOCUMENTS if page.stem != "benchmarks"))
    known = {
        part
        for name in cli.summaries()
        for parameter in cli._load(name).params
        for part in (*parameter.opts, *parameter.secondary_opts)
    }
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", text))
    assert named - OTHERS <= known | {"--debug", "--help", "--install-completion"}
    assert len(named) > 80


@pytest.mark.parametrize(
    ("package", "decorator"),
    [
        ("dlcli.training.losses", "register_loss"),
        ("dlcli.training.optim.optimizers", "register_optimizer"),
        ("dlcli.training.optim.schedules", "register_schedule"),
        ("dlcli.compress.quantize", "register_quantize_method"),
    ],
)
def test_documents_name_all_that_is_registered(package: str, decorator: str) -> None:
    text = words_of(*DOCUMENTS)
    names = declared_names(package, decorator)
    assert names
    assert [n for n in names if not re.search(rf"(?<![\w-]){n}(?![\w-])", text)] == []


def test_the_reference_is_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs/generate_reference.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_block_runs_or_says_why_not() -> None:
    assert len([text for _page, text, marked in BLOCKS if marked]) == MARKED
    for _page, text, marked in BLOCKS:
        lines = text.splitlines()
        assert marked or all("dlcli" in one or one.startswith("    python make_") for one in lines), text


@pytest.mark.parametrize("block", RUN)
def test_the_commands_of_documents_run(
    block: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of each page, in one folder; pipes and launchers in a shell of their own."""
    monkeypatch.chdir(folder)
    for line in map(smaller, map(str.strip, block.splitlines())):
        # PyTorch's launcher leaves a socket to the interpreter's end.
        if "|" in line or "--devices" in line or not line.startswith("dlcli "):
            command = re.sub(r"^python ", f"{sys.executable} ", line)
            command = command.replace("dlcli ", f"{sys.executable} -m dlcli ")
            code = subprocess.run(command, shell=True, check=False).returncode
        else:
            code = main(shlex.split(line)[1:])
        assert code in ((0, 3) if any(bound in line for bound in BOUNDS) else (0,)), line


def test_links_lead_to_files_and_every_page_is_in_the_lists() -> None:
    for page in DOCUMENTS:
        links = re.findall(r"\]\(([^)#:]+)[^)]*\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).is_file()] == [], page
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in sorted(ROOT.glob("docs/**/*.md"))]
    assert [n for n in pages if n != "index.md" and f"(docs/{n})" not in words_of(README)] == []
    assert [n for n in pages if f'"{n}"' not in words_of(ROOT / "zensical.toml")] == []
