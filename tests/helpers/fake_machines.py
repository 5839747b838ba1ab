"""Machines that are not here: files, programs and packages in a folder, records of the probe."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dlcli.machine import child
from dlcli.machine.child import Outcome
from dlcli.machine.facts import Facts, probe_facts, read_facts, with_probe
from dlcli.machine.host import Host
from dlcli.machine.probe import (
    FIND_DEVICES,
    IMPORT_ONNXRUNTIME,
    IMPORT_TORCH,
    IMPORT_TORCHVISION,
    RUN_ONNX,
    autocast_step,
    use_step,
)


def make_package(
    root: Path,
    name: str,
    *,
    code: str = "",
    version: str = "1.0",
    file_version: str | None = None,
    requires: tuple[str, ...] = (),
    says: str = "",
) -> Path:
    """A package and its metadata in ``root``; ``says`` is more of its version.py."""
    package = root / name
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(textwrap.dedent(code))
    (package / "version.py").write_text(f"__version__ = {file_version or version!r}\n{says}")
    info = root / f"{name}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    lines = [f"Requires-Dist: {line}" for line in requires]
    head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text("\n".join([*head, *lines]) + "\n")
    return package


# Enough of torch for the first step of the probe.
LIGHT_TORCH = """
    from types import SimpleNamespace as S
    __version__ = "2.15.0+cu132"
    version = S(cuda="13.2", hip=None)
    backends = S(
        cudnn=S(version=lambda: 92600, is_available=lambda: True),
        cpu=S(get_cpu_capability=lambda: "AVX2"),
        mps=S(is_built=lambda: False),
    )
    distributed = S(is_available=lambda: False)
    get_num_threads = get_num_interop_threads = lambda: 2
"""


def operation(name: str, **changes: Any) -> dict[str, Any]:
    dtype = "bfloat16" if name == "autocast" else "float32"
    good = {"name": name, "dtype": dtype, "ok": True, "ms": 0.1, "max_error": 3e-7, "reason": None}
    return good | changes


GOOD_OPERATIONS = [operation(name) for name in ("matmul", "conv2d", "training")]
HALF = Outcome({"operations": [operation("autocast")]})
TORCH = {"version": "2.15.0+cu132", "cuda": "13.2", "hip": None, "cudnn": 92600, "nccl": "2.30.7"}
TORCH |= {"cpu_capability": "AVX512", "threads": 1, "interop_threads": 1, "gloo": True}
ARCH_LIST = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


def good_steps() -> dict[str, Outcome]:
    """A machine with one GPU, where everything works."""
    gpu = {"name": "Some GPU", "capability": "9.0", "total_bytes": 80 << 30, "free_bytes": 79 << 30}
    return {
        IMPORT_TORCH: Outcome(dict(TORCH)),
        IMPORT_TORCHVISION: Outcome({"version": "0.29.0+cu132"}),
        use_step("cpu"): Outcome({"operations": GOOD_OPERATIONS}),
        autocast_step("cpu"): HALF,
        FIND_DEVICES: Outcome({"devices": ["cuda:0"], "no_cuda": None, "arch_list": ARCH_LIST}),
        use_step("cuda:0"): Outcome({**gpu, "operations": GOOD_OPERATIONS}),
        autocast_step("cuda:0"): HALF,
        IMPORT_ONNXRUNTIME: Outcome({"version": "1.31.1", "providers": ["CPUExecutionProvider"]}),
        RUN_ONNX: Outcome({"ms": 0.05, "max_error": 2e-7}),
    }


def facts_of(steps: dict[str, Outcome]) -> Facts:
    """This machine with other results of the probe."""
    return with_probe(read_facts(), steps)


def without_gpu(reason: str, **listing: Any) -> dict[str, Outcome]:
    """The steps where torch sees no accelerator, in its own words."""
    steps = good_steps()
    for step in (use_step("cuda:0"), autocast_step("cuda:0")):
        del steps[step]
    found = {"devices": [], "no_cuda": reason, "arch_list": ARCH_LIST}
    return steps | {FIND_DEVICES: Outcome(found | listing)}


@dataclass
class FakeMachine:
    """A root with proc, sys and dev, a folder of programs, and folders of packages.

    ``steps`` are what the probe's child reports; ``crashed`` is a step in which it dies of a signal.
    """

    folder: Path
    platform: str = "linux"
    machine: str = "x86_64"
    steps: dict[str, Outcome] = field(default_factory=good_steps)
    crashed: tuple[str, int] | None = None
    environ: dict[str, str] = field(default_factory=dict)
    disks: dict[str, tuple[int, int]] = field(default_factory=dict)
    sites: list[str] = field(default_factory=list)

    def write(self, name: str, text: str = "") -> None:
        path = self.folder / "root" / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def program(self, name: str, replies: Mapping[str, str], code: int = 0) -> None:
        """A program of the PATH: what it prints, by its arguments; ``*`` is any other."""
        bin_folder = self.folder / "bin"
        bin_folder.mkdir(exist_ok=True)
        cases = []
        for number, (arguments, text) in enumerate(replies.items()):
            (bin_folder / f"{name}.{number}").write_text(text)
            pattern = "*" if arguments == "*" else f'"{arguments}"'
            cases.append(f"{pattern}) /bin/cat '{bin_folder}/{name}.{number}'; exit {code};;")
        program = bin_folder / name
        program.write_text('#!/bin/sh\ncase "$*" in\n' + "\n".join(cases) + "\nesac\nexit 2\n")
        program.chmod(0o755)

    def site(self, name: str = "site") -> Path:
        """A folder of packages on the path."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        if str(folder) not in self.sites:
            self.sites.append(str(folder))
        return folder

    def torch(
        self, version: str = "2.15.0+cu132", cuda: str | None = "13.2", site: str = "site"
    ) -> None:
        public = version.partition("+")[0]
        says = f"cuda = {cuda!r}"
        make_package(self.site(site), "torch", version=public, file_version=version, says=says)
        self.steps[IMPORT_TORCH] = Outcome(TORCH | {"version": version, "cuda": cuda})

    def torchvision(self, version: str = "0.29.2+cu132", requires: str = "torch==2.15.0") -> None:
        public = version.partition("+")[0]
        self._remove("torchvision")
        make_package(
            self.site(),
            "torchvision",
            version=public,
            file_version=version,
            requires=(requires,),
        )

    def onnxruntime(self, version: str, cuda: str | None = None, *providers: str) -> None:
        name = "onnxruntime-gpu" if cuda else "onnxruntime"
        package = make_package(self.site(), "onnxruntime", version=version)
        holder = name.replace("-", "_")
        if holder != "onnxruntime":
            self._remove(holder)
            info = self.site() / f"onnxruntime-{version}.dist-info"
            info.rename(self.site() / f"{holder}-{version}.dist-info")
        (package / "capi").mkdir(exist_ok=True)
        lines = [f"package_name = {name!r}", f"__version__ = {version!r}"]
        lines += [f"cuda_version = {cuda!r}"] if cuda else []
        (package / "capi" / "build_and_package_info.py").write_text("\n".join(lines))
        names = [*providers, "CPUExecutionProvider"]
        self.steps[IMPORT_ONNXRUNTIME] = Outcome({"version": version, "providers": names})

    def _remove(self, holder: str) -> None:
        """Uninstall the metadata of an earlier version."""
        for info in self.site().glob(f"{holder}-*.dist-info"):
            shutil.rmtree(info)

    def nvidia(self, driver: str = "580.65.06", cuda: str = "13.0", gpus: Sequence[str] = ()) -> None:
        """A driver, device files, and an nvidia-smi; ``gpus`` are "name, capability"."""
        release = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64"
        self.write("/proc/driver/nvidia/version", f"{release}  {driver}  Release Build\n")
        for node in ("nvidiactl", "nvidia-uvm", *(f"nvidia{n}" for n in range(len(gpus)))):
            self.write(f"/dev/{node}")
        pairs = [gpu.split(", ") for gpu in gpus]
        capabilities = "".join(f"GPU-{n}, {pair[1]}\n" for n, pair in enumerate(pairs))
        links = "".join(
            f"GPU {n}: {pair[0]} (UUID: GPU-{n})\n\t Link 0: 26.562 GB/s\n\t Link 1: <inactive>\n"
            for n, pair in enumerate(pairs)
        )
        xml = [nvidia_smi_gpu(n, pair[0]) for n, pair in enumerate(pairs)]
        self.program(
            "nvidia-smi",
            {
                "-q -x": nvidia_smi_log(driver, cuda, xml),
                "--query-gpu=uuid,compute_cap --format=csv,noheader": capabilities,
                "nvlink --status": links,
            },
        )

    def host(self) -> Host:
        (self.folder / "root").mkdir(exist_ok=True)
        by_path = {name: (total, total - free, free) for name, (total, free) in self.disks.items()}
        return Host(
            root=self.folder / "root",
            environ={"PATH": str(self.folder / "bin"), **self.environ},
            platform=self.platform,
            machine=self.machine,
            packages=self.sites,
            disk_usage=lambda path: by_path[path.name],
        )

    def facts(self, monkeypatch: pytest.MonkeyPatch) -> Facts:
        """All that `dlcli info` learns, from the files, the programs and the child's output."""
        monkeypatch.setattr(child, "_run_child", self._run_child)
        disks = {}
        for name in self.disks:
            (self.folder / name).mkdir(exist_ok=True)
            disks["shared memory" if name == "shm" else name] = self.folder / name
        return probe_facts(self.host(), disks)

    def _run_child(
        self, module: str, arguments: list[str], timeout_s: float
    ) -> tuple[str, str, int | None]:
        """What a child writes: the records of its part, up to the step that kills it."""
        part, *skip = arguments
        lines = []
        for step, outcome in self.steps.items():
            if ("ONNX" in step or "onnx" in step) != (part == "onnx") or step in skip:
                continue
            lines.append(json.dumps({"step": step, "state": "started"}))
            if self.crashed is not None and step == self.crashed[0]:
                return "\n".join(lines), "Fatal Python error", -self.crashed[1]
            state = {"error": outcome.error} if outcome.error else {"value": outcome.value}
            lines.append(json.dumps({"step": step, "state": "done", **state}))
        return "\n".join(lines), "", 0


def nvidia_smi_log(driver: str, cuda: str, gpus: Sequence[str]) -> str:
    """The frame of ``nvidia-smi -q -x``."""
    return (
        '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n'
        f"<nvidia_smi_log>\n<driver_version>{driver}</driver_version>\n"
        f"<cuda_version>{cuda}</cuda_version>\n<attached_gpus>{len(gpus)}</attached_gpus>\n"
        + "".join(gpus)
        + "</nvidia_smi_log>\n"
    )


def nvidia_smi_gpu(index: int, name: str) -> str:
    """One GPU of ``nvidia-smi -q -x``."""
    return f"""<gpu id="00000000:0{index + 1}:00.0">
        <product_name>{name}</product_name>
        <mig_mode><current_mig>Disabled</current_mig><pending_mig>Disabled</pending_mig></mig_mode>
        <mig_devices>None</mig_devices>
        <uuid>GPU-{index}</uuid>
        <fb_memory_usage><total>81559 MiB</total><used>1559 MiB</used></fb_memory_usage>
        <utilization><gpu_util>7 %</gpu_util><memory_util>N/A</memory_util></utilization>
        <temperature><gpu_temp>41 C</gpu_temp></temperature>
    </gpu>
    """
