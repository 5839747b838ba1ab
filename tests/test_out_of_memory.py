"""Memory that runs out: which errors say so, and what commands do where the system gives no more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dlcli import cli
from dlcli.cli import main
from dlcli.out_of_memory import is_out_of_memory

# Commands, one after another, in a process that gets no more than so many MiB after the first.
LIMITED = """
import resource, sys
from dlcli.cli import main

more, first, *rest = sys.argv[1:]
assert main(first.split()) == 0
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + int(more) * 2**20, -1))
sys.exit(max(main(command.split()) for command in rest))
"""
NET = """
from torch import nn

class Wide(nn.Module):
    \"\"\"A sample needs 17 MiB to be trained on and 1 to be evaluated.\"\"\"

    def __init__(self, task):
        super().__init__()
        self.body = nn.Conv2d(1, 2048, 3, padding=1)
        self.head = nn.Linear(2048, task.num_outputs)

    def forward(self, x):
        x = self.body(x)  # 0.5 MiB a sample
        for _ in range(32):
            x = x.sigmoid()
        return self.head(x.mean((2, 3)))
"""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not execute a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a convolution"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("unable to mmap 64 bytes from file: Cannot allocate memory (12)"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_the_words_of_every_allocator_are_recognised(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS")
def test_training_backs_off_where_the_system_gives_no_memory(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    common = (
        "train -d digits -m net.py:Wide --device cpu --max-steps 1 --set data.val_fraction=0.01 --name"
    )
    commands = [f"{common} one -b 1 -q", f"{common} auto -b auto", f"{common} fixed -b 16"]
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, "100", *commands],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    found, divided = result.stderr.split("out of memory in epoch 1: micro-batches of", 1)
    assert re.search(r"batch size auto: .*do not fit into", found)
    assert "a step still sees 16 samples" in divided


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("could not create a primitive"), OSError(12, "Cannot allocate")],
)
def test_a_command_without_memory_fails_as_expected_failures_do(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_load", lambda name: fail)
    assert main(["info"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: out of memory")
    assert "hint: use a smaller --batch-size" in err
