"""What kind of machine this is, by the files in which kernel and system software tell it. Looks only."""

from __future__ import annotations

from pathlib import Path

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
