"""The screen of `dlcli info`: hardware, libraries, tests, what is wrong and what mends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dlcli import __version__, wording
from dlcli.machine.child import NOT_TRIED
from dlcli.ui import console as consoles
from dlcli.ui.sections import Row, Section, print_sections

if TYPE_CHECKING:
    from dlcli.machine.causes.base import Cause
    from dlcli.machine.facts import Device, Facts, Library
    from dlcli.machine.nvidia import Gpu

_OPERATIONS = {
    "matmul": "matmul 512 x 512",
    "conv2d": "conv2d and gradients",
    "training": "5 steps of SGD",
    "autocast": "autocast",
}
# These have a line of their own among the libraries.
_TESTED = ("torch", "torchvision", "onnxruntime")
_STYLES = {"error": "bold red", "warning": "yellow", "note": ""}


@dataclass(frozen=True)
class Report:
    """All of the screen. ``cache`` is that of images, ``run`` the newest run in words."""

    facts: Facts
    causes: Sequence[Cause]
    cache: Mapping[str, Any] | None = None
    run: str = ""
    bench: Sequence[Section] = field(default=())

    @property
    def verdict(self) -> tuple[str, str]:
        """The last line and its style."""
        if not self.facts.probed:
            return "nothing was tested (--quick)", "bold"
        broken = " and ".join(dict.fromkeys(c.part for c in self.causes if c.level == "error"))
        if not self.facts.usable:
            return f"not ready: {broken} does not work", "bold red"
        ready = f"ready: dlcli can train here, on {self.facts.best}"
        if broken:
            return f"{ready}, but {broken} does not work", "bold yellow"
        return ready, "bold green"


def print_report(report: Report) -> None:
    """Print the report on stdout."""
    print_sections(sections_of(report, consoles.stdout().width))
    console = consoles.stdout()
    console.print()
    words, style = report.verdict
    console.print(words, style=style)


def sections_of(report: Report, width: int) -> list[Section]:
    """Return the sections: facts, results of tests, speeds, problems, notes."""
    facts = report.facts
    problems = [cause for cause in report.causes if cause.level != "note"]
    notes = [cause for cause in report.causes if cause.level == "note"]
    return [
        Section(f"dlcli {__version__}", [*_system(facts), *_own(report)]),
        Section("Libraries", _libraries(facts)),
        Section("Devices", [*_devices(facts), *_deep(facts)]),
        *report.bench,
        Section("Packages", _packages(facts, width)),
        Section("Notes", _causes(notes)),
        Section("Problems", _causes(problems)),
    ]


def _system(facts: Facts) -> list[Row]:
    cpu, memory, system = facts.cpu, facts.memory, facts.system
    where = f", {facts.container}" if facts.container else ""
    cores = f"{cpu['physical_cores'] or '?'} cores, {cpu['logical_cores']} logical"
    if cpu["usable_cores"] != cpu["logical_cores"]:
        cores += f", {cpu['usable_cores']} for this process"
    if cpu["quota_cores"]:
        cores += f", {cpu['quota_cores']:g} by the cgroup's quota"
    if facts.load is not None:
        cores += f"; load {facts.load:.3g}"
    sets = ", ".join(cpu["instruction_sets"]) or "instruction sets not known"
    total, available = (wording.memory(memory[f"{key}_bytes"] / 2**20) for key in ("total", "available"))
    ram = f"{total}, {available} available"
    if memory["limit_bytes"]:
        ram += f", {wording.memory(memory['limit_bytes'] / 2**20)} by the cgroup's limit"
    return [
        Row("system", f"{system['name']}, {system['machine']}, kernel {system['kernel']}{where}"),
        Row("Python", f"{facts.python['version']}, {facts.python['executable']}"),
        Row("CPU", f"{cpu['model']}: {cores}"),
        Row("", sets),
        Row("RAM", ram),
        *_disks(facts),
        *(
            Row("environment" if number == 0 else "", f"{name}={value}")
            for number, (name, value) in enumerate(facts.environ.items())
        ),
    ]


def _disks(facts: Facts) -> list[Row]:
    """A row for each file system, with what is on it."""
    uses: dict[tuple[int, int], list[str]] = {}
    for disk in facts.disks:
        uses.setdefault((disk.total_bytes, disk.free_bytes), []).append(disk.use)
    return [
        Row(
            "disk" if number == 0 else "",
            f"{wording.size(free)} of {wording.size(total)} free for {', '.join(names)}",
        )
        for number, ((total, free), names) in enumerate(uses.items())
    ]


def _own(report: Report) -> list[Row]:
    rows = []
    if report.cache is not None:
        size, limit = (wording.size(report.cache[f"{key}_bytes"]) for key in ("size", "limit"))
        rows.append(Row("image cache", f"{size} of at most {limit}, in {report.cache['dir']}"))
    if report.run:
        rows.append(Row("newest run", report.run))
    return rows


def _libraries(facts: Facts) -> list[Row]:
    torch, runtime = facts.torch.details, facts.onnxruntime.details
    words: dict[str, list[str]] = {"torch": [], "torchvision": [], "onnxruntime": []}
    if torch.get("cudnn"):
        words["torch"].append(f"cuDNN {_cudnn(torch['cudnn'])}")
    if torch.get("nccl"):
        words["torch"].append(f"NCCL {torch['nccl']}")
    if torch.get("gloo"):
        words["torch"].append("gloo")
    if torch.get("threads"):
        words["torch"].append(wording.plural(torch["threads"], "thread"))
    if torch.get("cpu_capability"):
        words["torch"].append(f"CPU kernels {torch['cpu_capability']}")
    if facts.torchvision.ok:
        words["torchvision"].append("compiled operators work")
    if runtime.get("ms") is not None:
        words["onnxruntime"].append(f"inference {runtime['ms']:.2f} ms")
    if runtime.get("providers"):
        names = (name.removesuffix("ExecutionProvider") for name in runtime["providers"])
        words["onnxruntime"].append("providers " + ", ".join(names))
    libraries = (facts.torch, facts.torchvision, facts.onnxruntime)
    return [row for lib in libraries for row in _library(lib, words[lib.package.name], facts.probed)]


def _library(library: Library, facts: list[str], probed: bool) -> list[Row]:
    build = [f"{library.build.kind} build"] if library.build and library.build.kind else []
    words = [library.version or "not installed", *build, *facts]
    if not library.tried:
        return [Row(library.package.name, ", ".join([*words, *(["not tested"] if probed else [])]))]
    rows = [Row(library.package.name, ", ".join(words), library.ok)]
    if library.error:
        rows.append(Row("", wording.one_line(library.error), style="red"))
    return rows


def _devices(facts: Facts) -> list[Row]:
    """Devices that torch lists, with what NVIDIA's driver says of them, then its other GPUs."""
    gpus = {gpu.uuid: gpu for gpu in facts.nvidia.gpus}
    rows = []
    for device in facts.devices:
        gpu = gpus.pop(f"GPU-{device.uuid}", None) or gpus.pop(str(device.uuid), None)
        rows += _device(device, gpu)
    for gpu in gpus.values():
        words = [gpu.name, *_memory(gpu.total_bytes, gpu.used_bytes), *_state(gpu)]
        rows.append(Row(f"GPU {gpu.index}", ", ".join(words)))
    driver = facts.nvidia.driver
    if driver:
        cuda = f", for CUDA up to {facts.nvidia.cuda}" if facts.nvidia.cuda else ""
        rows.append(Row("driver", f"NVIDIA {driver}{cuda}"))
    rows += [Row("AMD", target) for target in facts.amd]
    return rows


def _device(device: Device, gpu: Gpu | None) -> list[Row]:
    words = [device.name or "unknown"]
    if device.total_bytes:
        free = device.free_bytes
        free_text = f" ({wording.memory(free / 2**20)} free)" if free is not None else ""
        words.append(wording.memory(device.total_bytes / 2**20) + free_text)
    if device.capability and device.kind != "cpu":
        words.append(f"compute capability {device.capability}")
    if gpu is not None:
        words += _state(gpu, capability=False)
    rows = [Row(device.device, ", ".join(words), device.ok)]
    rows += [Row("", _operation(operation), operation["ok"]) for operation in device.operations]
    for what, error in (("", device.error), ("autocast: ", device.autocast_error)):
        if error and error != NOT_TRIED:
            rows.append(Row("", what + wording.one_line(error), False))
    return rows


def _memory(total: int | None, used: int | None) -> list[str]:
    if total is None:
        return []
    free = f" ({wording.memory((total - used) / 2**20)} free)" if used is not None else ""
    return [wording.memory(total / 2**20) + free]


def _state(gpu: Gpu, *, capability: bool = True) -> list[str]:
    words = []
    if capability and gpu.capability:
        words.append(f"compute capability {gpu.capability}")
    if gpu.utilization_percent is not None:
        words.append(f"{gpu.utilization_percent} % busy")
    if gpu.temperature_c is not None:
        words.append(f"{gpu.temperature_c} °C")
    if gpu.mig:
        words.append(f"MIG with {wording.plural(gpu.mig_devices, 'instance')}")
    if gpu.nvlinks:
        words.append(wording.plural(gpu.nvlinks, "NVLink"))
    return words


def _operation(operation: Mapping[str, Any]) -> str:
    words = _OPERATIONS.get(operation["name"], operation["name"])
    if operation["name"] == "autocast":
        words = f"autocast {operation['dtype']}"
    if operation["reason"]:
        return f"{words}: {wording.one_line(operation['reason'])}"
    return f"{words:<20}  {operation['ms']:8.2f} ms  error {operation['max_error']:.0e}"


def _deep(facts: Facts) -> list[Row]:
    rows = []
    for number, (name, step) in enumerate(facts.deep.items()):
        value = step.value or {}
        words = wording.one_line(step.error) if step.error else f"{value.get('seconds', 0):.1f} s"
        rows.append(Row("deep" if number == 0 else "", f"{name}: {words}", step.error is None))
    return rows


def _packages(facts: Facts, width: int) -> list[Row]:
    """Name and version in as many columns as fit ``width``, read downwards."""
    others = ((n, p.version) for n, p in facts.packages.items() if n not in (*_TESTED, "dlcli"))
    cells = [(name, version or "missing") for name, version in others]
    name_width = max(len(name) for name, _ in cells)
    cell_width = name_width + 2 + max(len(version) for _, version in cells) + 4
    columns = max(1, (width - 2) // cell_width)
    lines = -(-len(cells) // columns)
    words = [f"{name:<{name_width}}  {version}".ljust(cell_width) for name, version in cells]
    return [Row("", "".join(words[line::lines])) for line in range(lines)]


def _causes(causes: Sequence[Cause]) -> list[Row]:
    rows = []
    for cause in causes:
        level = "" if cause.level == "note" else f"{cause.level}: "
        rows.append(Row(cause.part, level + wording.one_line(cause.what), style=_STYLES[cause.level]))
        if cause.evidence:
            rows.append(Row("", wording.one_line(cause.evidence)))
        if cause.command:
            rows.append(Row("", cause.command, style="cyan", is_command=True))
        if cause.advice:
            rows.append(Row("", cause.advice))
    return rows


def _cudnn(number: int) -> str:
    """Format cuDNN's version number: 92600 is 9.26.0 (8902 was 8.9.2 before version 9)."""
    base = 10_000 if number >= 90_000 else 1_000
    return f"{number // base}.{number % base // 100}.{number % 100}"
