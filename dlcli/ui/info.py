"""The screen of `dlcli info`: hardware, libraries, and whether they work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlcli import wording
from dlcli.machine.child import NOT_TRIED
from dlcli.ui import console as consoles
from dlcli.ui.sections import Row, Section, print_sections

if TYPE_CHECKING:
    from dlcli.machine.report import Machine

_OPERATIONS = {"matmul": "matmul 512 x 512", "conv2d": "conv2d and gradients"}
# These have a line of their own among the libraries.
_TESTED = ("torch", "torchvision", "onnxruntime")


def print_machine(machine: Machine, image_cache: dict[str, Any] | None) -> None:
    """Print the report on stdout: facts, test results, problems and the verdict."""
    print_sections(
        [
            Section(f"dlcli {machine.dlcli}", [*_system(machine), *_image_cache(image_cache)]),
            Section("Libraries", _libraries(machine)),
            Section("Devices", _devices(machine)),
            Section("Packages", _packages(machine, consoles.stdout().width)),
            Section("Notes", [Row("", note) for note in machine.notes]),
            Section("Problems", _problems(machine)),
        ]
    )
    console = consoles.stdout()
    console.print()
    words, style = _verdict(machine)
    console.print(words, style=style)


def _verdict(machine: Machine) -> tuple[str, str]:
    """The last line and its style."""
    broken = " and ".join(dict.fromkeys(problem.part for problem in machine.problems))
    if not machine.usable:
        return f"not ready: {broken} does not work", "bold red"
    best = next((d["device"] for d in machine.devices if d["ok"] and d["kind"] != "cpu"), "cpu")
    ready = f"ready: dlcli can train here, on {best}"
    return (f"{ready}, but {broken} does not work", "bold yellow") if broken else (ready, "bold green")


def _system(machine: Machine) -> list[Row]:
    cpu, memory, system = machine.cpu, machine.memory, machine.system
    cores = f"{cpu['physical_cores'] or '?'} physical, {cpu['logical_cores']} logical"
    if cpu["usable_cores"] != cpu["logical_cores"]:
        cores += f", {cpu['usable_cores']} for this process"
    if cpu["quota_cores"]:
        cores += f", {cpu['quota_cores']:g} by the container's quota"
    total, available = (wording.memory(memory[f"{key}_bytes"] / 2**20) for key in ("total", "available"))
    ram = f"{total}, {available} available"
    if memory["limit_bytes"]:
        ram += f", {wording.memory(memory['limit_bytes'] / 2**20)} by the container's limit"
    return [
        Row("Python", f"{machine.python['version']}  {machine.python['executable']}"),
        Row("OS", f"{system['name']}, {system['machine']}, kernel {system['kernel']}"),
        Row("CPU", cpu["model"]),
        Row("cores", cores),
        Row("instructions", ", ".join(cpu["instruction_sets"]) or "not known"),
        Row("RAM", ram),
    ]


def _image_cache(cache: dict[str, Any] | None) -> list[Row]:
    if cache is None:
        return []
    size, limit = (wording.size(cache[f"{key}_bytes"]) for key in ("size", "limit"))
    return [Row("image cache", f"{size} of at most {limit}, in {cache['dir']}")]


def _libraries(machine: Machine) -> list[Row]:
    torch, vision, runtime = machine.torch, machine.torchvision, machine.onnxruntime
    facts = [torch["built_for"] and f"{torch['built_for']} build"]
    if torch["cudnn"]:
        facts.append(f"cuDNN {_cudnn(torch['cudnn'])}")
    if torch["threads"]:
        facts.append(wording.plural(torch["threads"], "thread"))
    if torch["cpu_capability"]:
        facts.append(f"CPU kernels {torch['cpu_capability']}")
    providers = [name.removesuffix("ExecutionProvider") for name in runtime["providers"]]
    ran = [f"inference {runtime['ms']:.2f} ms"] if runtime["ms"] is not None else []
    vision_facts = [vision["built_for"] and f"{vision['built_for']} build"]
    if vision["ok"]:
        vision_facts.append("compiled operators work")
    return _tested(
        [
            ("torch", torch, facts),
            ("torchvision", vision, vision_facts),
            ("onnxruntime", runtime, [*ran, "providers " + ", ".join(providers)] if providers else ran),
        ]
    )


def _tested(libraries: list[tuple[str, dict[str, Any], list[Any]]]) -> list[Row]:
    rows = []
    for name, library, facts in libraries:
        words = [library["version"] or "not installed", *(fact for fact in facts if fact)]
        if library["error"] == NOT_TRIED:
            rows.append(Row(name, ", ".join([*words, "not tested"])))
            continue
        rows.append(Row(name, ", ".join(words), library["ok"]))
        if library["error"]:
            rows.append(Row("", wording.one_line(library["error"]), style="red"))
    return rows


def _devices(machine: Machine) -> list[Row]:
    rows = []
    for device in machine.devices:
        words = [device["name"] or "unknown"]
        if device["total_bytes"]:
            free = device["free_bytes"]
            free_text = f" ({wording.memory(free / 2**20)} free)" if free is not None else ""
            words.append(wording.memory(device["total_bytes"] / 2**20) + free_text)
        if device["capability"] and device["kind"] != "cpu":
            words.append(f"compute capability {device['capability']}")
        if device["driver"]:
            words.append(f"driver {device['driver']}")
        rows.append(Row(device["device"], ", ".join(words), device["ok"]))
        rows += [Row("", _operation(operation), operation["ok"]) for operation in device["operations"]]
        if not device["operations"] and device["reason"]:
            rows.append(Row("", wording.one_line(device["reason"]), style="red"))
    return rows


def _operation(operation: dict[str, Any]) -> str:
    words = _OPERATIONS.get(operation["name"], operation["name"])
    if operation["reason"]:
        return f"{words}: {wording.one_line(operation['reason'])}"
    return f"{words:<20}  {operation['ms']:8.2f} ms  error {operation['max_error']:.0e}"


def _packages(machine: Machine, width: int) -> list[Row]:
    """Name and version in as many columns as fit ``width``, read downwards."""
    cells = [(n, v or "missing") for n, v in machine.packages.items() if n not in _TESTED]
    name_width = max(len(name) for name, _ in cells)
    cell_width = name_width + 2 + max(len(version) for _, version in cells) + 4
    columns = max(1, (width - 2) // cell_width)
    lines = -(-len(cells) // columns)
    words = [f"{name:<{name_width}}  {version}".ljust(cell_width) for name, version in cells]
    return [Row("", "".join(words[line::lines])) for line in range(lines)]


def _problems(machine: Machine) -> list[Row]:
    rows = []
    for problem in machine.problems:
        rows.append(Row(problem.part, wording.one_line(problem.message), style="red"))
        if problem.hint:
            rows.append(Row("", f"hint: {problem.hint}"))
    return rows


def _cudnn(number: int) -> str:
    """Format cuDNN's version number: 92600 is 9.26.0 (8902 was 8.9.2 before version 9)."""
    base = 10_000 if number >= 90_000 else 1_000
    return f"{number // base}.{number % base // 100}.{number % 100}"
