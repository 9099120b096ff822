"""From what NVML and the machine say to the accelerators that a host announces, or why it has none. Pure.

kind                     is                                               memory
`gb10`                   NVIDIA GB10: NVML has no memory to tell of       the host's
`orin` `thor` `xavier`   a Jetson's own GPU, told by its chip: NVML       the host's
                         knows little of it, or is not there at all
`jetson`                 one of an older Jetson                           the host's
`cuda`                   every other NVIDIA GPU                           its own
"""

from __future__ import annotations

import re
from pathlib import Path

from aima_core.domain.hosts import Accelerator
from aima_worker.node.nvml import Device, Reading
from aima_worker.runtime import FrozenModel

NVIDIA = "0x10de"
DISPLAY_CLASS = "0x03"
"""How the class of a PCI device begins that is a GPU."""


class Machine(FrozenModel):
    model: str = ""
    """By the device tree, such as `NVIDIA Jetson AGX Orin Developer Kit`; empty on machines without one."""
    chips: tuple[str, ...] = ()
    """What the device tree says it is compatible with, such as `nvidia,tegra234`."""
    jetson_linux: bool = False
    """The system software is NVIDIA's for Jetsons."""
    nvidia_driver: bool = False
    """The kernel has loaded it."""
    nvidia_on_bus: bool = False
    """A GPU of NVIDIA's is plugged in, whether anything drives it or not."""

    @property
    def is_jetson(self) -> bool:
        return self.jetson_linux or any(chip.startswith("nvidia,tegra") for chip in self.chips)


def this_machine(root: Path = Path("/")) -> Machine:
    tree = root / "proc/device-tree"
    return Machine(
        model="".join(_strings(tree / "model")),
        chips=tuple(_strings(tree / "compatible")),
        jetson_linux=(root / "etc/nv_tegra_release").exists(),
        nvidia_driver=(root / "proc/driver/nvidia/version").exists(),
        nvidia_on_bus=any(map(_is_nvidia_gpu, (root / "sys/bus/pci/devices").glob("*"))),
    )


def _strings(file: Path) -> list[str]:
    """A property of the device tree: strings, each ended by a NUL. None at all where there is no such file."""
    try:
        return [part for part in file.read_bytes().decode("utf-8", "replace").split("\0") if part]
    except OSError:
        return []


def _is_nvidia_gpu(device: Path) -> bool:
    try:
        return (device / "vendor").read_text().strip() == NVIDIA and (device / "class").read_text().startswith(
            DISPLAY_CLASS
        )
    except OSError:
        return False


CUDA, GB10, JETSON = "cuda", "gb10", "jetson"
JETSON_CHIPS = {
    "nvidia,tegra194": ("xavier", "7.2"),
    "nvidia,tegra234": ("orin", "8.7"),
    "nvidia,tegra264": ("thor", "11.0"),
}
"""By the device tree's word for the chip: the kind, and the compute capability, which NVML need not tell there."""
_GB10_NAME = re.compile(r"\bGB10\b")
_JETSON_NAME = re.compile(r"\b(orin|thor|xavier)\b|\bnvgpu\b", re.IGNORECASE)
"""What NVML calls a Jetson's GPU: `Orin (nvgpu)`, `NVIDIA Thor`."""


class Trouble(FrozenModel):
    said: str
    mend: str


class Found(FrozenModel):
    accelerators: tuple[Accelerator, ...] = ()
    trouble: Trouble | None = None
    """Why there are none, or not all, where the machine has GPUs."""


def found(reading: Reading, machine: Machine) -> Found:
    if machine.is_jetson and not reading.devices:
        return Found(accelerators=(_by_chip(machine),))  # CUDA works there without NVML
    accelerators = tuple(_by_nvml(device, machine) for device in reading.devices)
    return Found(accelerators=accelerators, trouble=_trouble(reading, machine))


def shares_memory(accelerators: tuple[Accelerator, ...]) -> bool:
    """Whether CPU and GPU have one memory."""
    return any(each.memory is None for each in accelerators)


def _by_nvml(device: Device, machine: Machine) -> Accelerator:
    if _is_of_a_jetson(device, machine):
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


def _is_of_a_jetson(device: Device, machine: Machine) -> bool:
    """A Jetson may have a card in its slot, which is none."""
    named = _JETSON_NAME.search(device.name) is not None
    return named or (machine.is_jetson and device.memory is None)


def _by_chip(machine: Machine, name: str = "") -> Accelerator:
    """A Jetson's own GPU: there is one, so it needs no id."""
    chip = next((chip for chip in machine.chips if chip in JETSON_CHIPS), None)
    # In a container the device tree is hidden, and the name is all there is.
    word = _JETSON_NAME.search(f"{machine.model} {name}")
    named = word[1].lower() if word and word[1] else JETSON
    kind, capability = JETSON_CHIPS[chip] if chip else (named, None)
    return Accelerator(kind=kind, name=machine.model or name or "NVIDIA Jetson", compute_capability=capability)


_NOT_THERE = {"LibraryNotFound", "DriverNotLoaded"}
_MENDS = {
    "LibraryNotFound": "install NVIDIA's driver with its libraries, and give a worker in a container `--gpus all`",
    "DriverNotLoaded": "sudo modprobe nvidia; if that fails, install NVIDIA's driver for this kernel",
    "LibRmVersionMismatch": "sudo reboot (the driver was updated, and the kernel still runs the old one)",
    "NoPermission": "sudo usermod -aG video,render $USER, and log in anew",
    "GpuIsLost": "sudo reboot; if it comes again, look at `sudo dmesg | grep Xid`",
    "ResetRequired": "sudo nvidia-smi --gpu-reset",
}
_OTHERWISE = "look at what `nvidia-smi` and `sudo dmesg | grep NVRM` say, then restart the worker"


def _trouble(reading: Reading, machine: Machine) -> Trouble | None:
    error = reading.error
    if error is None or (error.code in _NOT_THERE and not (machine.nvidia_driver or machine.nvidia_on_bus)):
        return None
    said = f"{len(reading.devices)} of the NVIDIA GPUs can be used: {error.words}"
    return Trouble(
        said=said if reading.devices else f"No NVIDIA GPU can be used: {error.words}",
        mend=_MENDS.get(error.code, _OTHERWISE),
    )
