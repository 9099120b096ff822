"""Derives a host's accelerators from NVML's reading and the machine's own files, or why a GPU cannot be used. Pure.

kind                     is                                                  memory
`gb10`                   NVIDIA GB10: NVML reports no memory                 the host's
`orin` `thor` `xavier`   a Jetson's integrated GPU, recognized by its chip:  the host's
                         NVML reports little, or is not installed
`jetson`                 the GPU of an older Jetson                          the host's
`cuda`                   every other NVIDIA GPU; in MIG mode, each instance  its own
"""

import re
from pathlib import Path

from aima_core.domain.hosts import Accelerator
from aima_worker.node.nvml import NO_INSTANCE, Device, Reading
from aima_worker.runtime import FrozenModel

CUDA, GB10, JETSON = "cuda", "gb10", "jetson"
NVIDIA_VENDOR = "0x10de"
DISPLAY_CLASS = "0x03"
"""The prefix of a GPU's PCI class."""
JETSON_CHIPS = {
    "nvidia,tegra194": ("xavier", "7.2"),
    "nvidia,tegra234": ("orin", "8.7"),
    "nvidia,tegra264": ("thor", "11.0"),
}
"""Device tree name of the chip: kind and compute capability, which NVML may not report there."""
_GB10_NAME = re.compile(r"\bGB10\b")
_JETSON_NAME = re.compile(r"\b(orin|thor|xavier)\b|\bnvgpu\b", re.IGNORECASE)
"""NVML's names of a Jetson's GPU: `Orin (nvgpu)`, `NVIDIA Thor`."""
_ABSENT = {"LibraryNotFound", "DriverNotLoaded"}
_FIXES = {
    "LibraryNotFound": "install NVIDIA's driver with its libraries; start a worker in a container with `--gpus all`",
    "DriverNotLoaded": "sudo modprobe nvidia; if that fails, install NVIDIA's driver for this kernel",
    "LibRmVersionMismatch": "sudo reboot (the driver was updated, and the kernel still runs the old one)",
    "NoPermission": "sudo usermod -aG video,render $USER, and log in again",
    "GpuIsLost": "sudo reboot; if it happens again, check `sudo dmesg | grep Xid`",
    NO_INSTANCE: "sudo nvidia-smi mig -cgi 9,9 -C (profiles: `nvidia-smi mig -lgip`), or sudo nvidia-smi -mig 0",
    "ResetRequired": "sudo nvidia-smi --gpu-reset",
}
_OTHER_FIX = "check `nvidia-smi` and `sudo dmesg | grep NVRM`, then restart the worker"


class Machine(FrozenModel):
    model: str = ""
    """From the device tree, such as `NVIDIA Jetson AGX Orin Developer Kit`; empty on machines without one."""
    chips: tuple[str, ...] = ()
    """The device tree's `compatible`, such as `nvidia,tegra234`."""
    jetson_linux: bool = False
    """The system software is NVIDIA's for Jetsons."""
    nvidia_driver: bool = False
    """The kernel has loaded it."""
    nvidia_on_bus: bool = False
    """An NVIDIA GPU is plugged in, with or without a driver."""

    @property
    def is_jetson(self) -> bool:
        return self.jetson_linux or any(chip.startswith("nvidia,tegra") for chip in self.chips)


class GpuProblem(FrozenModel):
    said: str
    mend: str


class DetectedAccelerators(FrozenModel):
    accelerators: tuple[Accelerator, ...] = ()
    trouble: GpuProblem | None = None
    """Why the machine has GPUs that cannot be used."""


def this_machine(root: Path = Path("/")) -> Machine:
    tree = root / "proc/device-tree"
    return Machine(
        model="".join(_strings(tree / "model")),
        chips=tuple(_strings(tree / "compatible")),
        jetson_linux=(root / "etc/nv_tegra_release").exists(),
        nvidia_driver=(root / "proc/driver/nvidia/version").exists(),
        nvidia_on_bus=any(map(_is_nvidia_gpu, (root / "sys/bus/pci/devices").glob("*"))),
    )


def detect(reading: Reading, machine: Machine) -> DetectedAccelerators:
    if machine.is_jetson and not reading.devices:
        return DetectedAccelerators(accelerators=(_by_chip(machine),))  # CUDA works there without NVML
    accelerators = tuple(_by_nvml(device, machine) for device in reading.devices)
    return DetectedAccelerators(accelerators=accelerators, trouble=_problem(reading, machine))


def shares_memory(accelerators: tuple[Accelerator, ...]) -> bool:
    """CPU and GPU have one memory."""
    return any(each.memory is None for each in accelerators)


def _strings(file: Path) -> list[str]:
    """A device tree property: NUL-terminated strings. Empty if there is no such file."""
    try:
        return [part for part in file.read_bytes().decode("utf-8", "replace").split("\0") if part]
    except OSError:
        return []


def _is_nvidia_gpu(device: Path) -> bool:
    try:
        vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text()
    except OSError:
        return False
    return vendor == NVIDIA_VENDOR and kind.startswith(DISPLAY_CLASS)


def _by_nvml(device: Device, machine: Machine) -> Accelerator:
    # A Jetson may have a discrete card in its slot as well.
    if _JETSON_NAME.search(device.name) or (machine.is_jetson and device.memory is None):
        own = _by_chip(machine, device.name)
        return own.model_copy(update={"compute_capability": device.compute_capability or own.compute_capability})
    is_gb10 = _GB10_NAME.search(device.name) is not None
    return Accelerator(
        kind=GB10 if is_gb10 else CUDA,
        name=device.name,
        id=device.uuid,
        memory=None if is_gb10 else device.memory,
        compute_capability=device.compute_capability,
    )


def _by_chip(machine: Machine, name: str = "") -> Accelerator:
    """A Jetson has one integrated GPU, so it needs no id."""
    chip = next((chip for chip in machine.chips if chip in JETSON_CHIPS), None)
    # In a container the device tree is hidden, and only the name is left.
    match = _JETSON_NAME.search(f"{machine.model} {name}")
    named = match[1].lower() if match and match[1] else JETSON
    kind, capability = JETSON_CHIPS[chip] if chip else (named, None)
    return Accelerator(kind=kind, name=machine.model or name or "NVIDIA Jetson", compute_capability=capability)


def _problem(reading: Reading, machine: Machine) -> GpuProblem | None:
    error = reading.error
    if error is None or (error.code in _ABSENT and not (machine.nvidia_driver or machine.nvidia_on_bus)):
        return None
    usable = f"{len(reading.devices)} of the NVIDIA GPUs" if reading.devices else "No NVIDIA GPU"
    return GpuProblem(said=f"{usable} can be used: {error.words}", mend=_FIXES.get(error.code, _OTHER_FIX))
