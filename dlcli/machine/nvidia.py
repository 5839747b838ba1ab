"""NVIDIA's GPUs and driver as the system, NVML or nvidia-smi describe them, without torch.

nvidia-smi's XML (``-q -x``) has been stable since 2012; capability and links are asked for apart, as old
drivers know neither. NVML is asked in the probe's child process: a broken driver may hang.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from dlcli.machine.host import Host

_VENDOR, _DISPLAY = "0x10de", "0x03"  # PCI's vendor number of NVIDIA and class of display controllers
_UNKNOWN = ("", "N/A", "[N/A]", "Not Found", "Unknown Error")


@dataclass(frozen=True)
class Gpu:
    """One GPU; None is what was not told. ``mig`` is its mode, ``nvlinks`` how many links are up."""

    index: int
    name: str
    uuid: str
    total_bytes: int | None = None
    used_bytes: int | None = None
    capability: str | None = None  # "9.0"
    utilization_percent: int | None = None
    temperature_c: int | None = None
    mig: bool | None = None
    mig_devices: int = 0
    nvlinks: int | None = None


@dataclass(frozen=True)
class Nvidia:
    """What there is of NVIDIA.

    ``driver`` is the kernel's module or what nvidia-smi names; ``cuda`` the newest CUDA it runs. ``pci``
    are addresses of GPUs on the bus, ``nodes`` device files, ``module`` the kernel module that has the
    GPU (nvidia, nouveau, vfio-pci). ``error`` is why neither NVML nor nvidia-smi told more.
    """

    driver: str | None = None
    cuda: str | None = None
    gpus: tuple[Gpu, ...] = ()
    pci: tuple[str, ...] = ()
    module: str | None = None
    nodes: tuple[str, ...] = ()
    source: str | None = None
    error: str | None = None

    @property
    def present(self) -> bool:
        """Whether anything says that there is an NVIDIA GPU."""
        return bool(self.gpus or self.pci or self.driver or self.nodes)


def read_nvidia(host: Host, nvml: Mapping[str, Any] | None = None) -> Nvidia:
    """Return what the system says, with the GPUs of ``nvml`` (from the probe), else nvidia-smi's."""
    module = re.search(r"Module.*?\s(\d+\.\d[\d.]*)\s", host.read("/proc/driver/nvidia/version"))
    devices = [
        device
        for device in host.glob("/sys/bus/pci/devices/*")
        if host.read(f"{device.relative_to(host.root)}/vendor").strip() == _VENDOR
        and host.read(f"{device.relative_to(host.root)}/class").startswith(_DISPLAY)
    ]
    drivers = [(device / "driver").resolve().name for device in devices if (device / "driver").exists()]
    facts: dict[str, Any] = {
        "driver": module[1] if module else None,
        "pci": tuple(device.name for device in devices),
        "module": drivers[0] if drivers else None,
        "nodes": tuple(f"/dev/{node.name}" for node in host.glob("/dev/nvidia*")),
    }
    if nvml is None:
        reply = _nvidia_smi(host)
    else:
        reply = {**nvml, "gpus": tuple(Gpu(**gpu) for gpu in nvml["gpus"]), "source": "NVML"}
    facts["driver"] = reply.pop("driver", None) or facts["driver"]
    return Nvidia(**facts, **reply)


def read_nvml() -> dict[str, Any]:
    """Return driver, CUDA and GPUs from NVML, JSON-ready. Raises: pynvml.NVMLError."""
    import pynvml as nvml

    nvml.nvmlInit()
    try:
        number = nvml.nvmlSystemGetCudaDriverVersion_v2()
        return {
            "driver": _text(nvml.nvmlSystemGetDriverVersion()),
            "cuda": f"{number // 1000}.{number % 1000 // 10}",
            "gpus": [_nvml_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())],
        }
    finally:
        nvml.nvmlShutdown()


def _nvml_gpu(nvml: Any, index: int) -> dict[str, Any]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(function: str, *args: Any) -> Any:
        try:
            return getattr(nvml, function)(handle, *args)
        except nvml.NVMLError:  # this GPU or this driver has no such thing
            return None

    memory, rates = ask("nvmlDeviceGetMemoryInfo"), ask("nvmlDeviceGetUtilizationRates")
    capability = ask("nvmlDeviceGetCudaComputeCapability")
    mode = ask("nvmlDeviceGetMigMode")
    slices = range(ask("nvmlDeviceGetMaxMigDeviceCount") or 0) if mode and mode[0] else ()
    links = [ask("nvmlDeviceGetNvLinkState", link) for link in range(nvml.NVML_NVLINK_MAX_LINKS)]
    known = [state for state in links if state is not None]
    return {
        "index": index,
        "name": _text(ask("nvmlDeviceGetName") or "unknown"),
        "uuid": _text(ask("nvmlDeviceGetUUID") or ""),
        "total_bytes": memory and int(memory.total),
        "used_bytes": memory and int(memory.used),
        "capability": capability and f"{capability[0]}.{capability[1]}",
        "utilization_percent": rates and int(rates.gpu),
        "temperature_c": ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        "mig": None if mode is None else bool(mode[0]),
        "mig_devices": sum(ask("nvmlDeviceGetMigDeviceHandleByIndex", i) is not None for i in slices),
        "nvlinks": sum(map(bool, known)) if known else None,
    }


def _text(value: str | bytes) -> str:
    """Old versions of the library return bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _nvidia_smi(host: Host) -> dict[str, Any]:
    reply = host.run("nvidia-smi", "-q", "-x")
    if reply is None:
        return {}
    if not reply.ok:
        return {"source": "nvidia-smi", "error": reply.complaint}
    try:
        log = ElementTree.fromstring(reply.stdout)
    except ElementTree.ParseError as exc:
        return {"source": "nvidia-smi", "error": f"its XML cannot be read: {exc}"}
    capabilities, links = _capabilities(host), _links(host)
    gpus = []
    for index, gpu in enumerate(log.iter("gpu")):
        uuid = _field(gpu, "uuid") or ""
        mode = _field(gpu, "mig_mode/current_mig")
        gpus.append(
            Gpu(
                index=index,
                name=_field(gpu, "product_name") or "unknown",
                uuid=uuid,
                total_bytes=_mebibytes(_field(gpu, "fb_memory_usage/total")),
                used_bytes=_mebibytes(_field(gpu, "fb_memory_usage/used")),
                capability=capabilities.get(uuid),
                utilization_percent=_number(_field(gpu, "utilization/gpu_util")),
                temperature_c=_number(_field(gpu, "temperature/gpu_temp")),
                mig=None if mode is None else mode == "Enabled",
                mig_devices=len(gpu.findall("mig_devices/mig_device")),
                nvlinks=links.get(index),
            )
        )
    return {
        "driver": _field(log, "driver_version"),
        "cuda": _field(log, "cuda_version"),
        "gpus": tuple(gpus),
        "source": "nvidia-smi",
    }


def _capabilities(host: Host) -> dict[str, str]:
    """Return the compute capability by UUID; drivers before 510 do not know the field."""
    reply = host.run("nvidia-smi", "--query-gpu=uuid,compute_cap", "--format=csv,noheader")
    rows = csv.reader(reply.stdout.splitlines(), skipinitialspace=True) if reply and reply.ok else ()
    return {row[0]: row[1] for row in rows if len(row) == 2 and re.fullmatch(r"\d+\.\d+", row[1])}


def _links(host: Host) -> dict[int, int]:
    """Return how many NVLinks are up by index; GPUs without links are left out."""
    reply = host.run("nvidia-smi", "nvlink", "--status")
    up: dict[int, int] = {}
    index = None
    for line in reply.stdout.splitlines() if reply and reply.ok else ():
        if match := re.match(r"GPU (\d+):", line.strip()):
            index = int(match[1])
        elif index is not None and (match := re.match(r"Link \d+: (\S+)", line.strip())):
            up[index] = up.get(index, 0) + (match[1][0].isdigit())
    return up


def _field(element: ElementTree.Element, path: str) -> str | None:
    """Return an element's text; None where it is missing or says that it is not known."""
    text = (element.findtext(path) or "").strip()
    return None if text in _UNKNOWN else text


def _number(text: str | None) -> int | None:
    match = re.match(r"\d+", text or "")
    return int(match[0]) if match else None


def _mebibytes(text: str | None) -> int | None:
    number = _number(text)
    return None if number is None else number << 20
