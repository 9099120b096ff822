"""The GPU run skips with the reason where there is none, and its engine computes what a CPU computes."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gpu.engine import WIDTH, Gpu, expected, tokens

RUN = Path(__file__).with_name("run")


class Driver:
    """CUDA's driver API in this process: addresses are those of host memory, and the kernel is a loop."""

    def __init__(self, *, room: int = 1 << 20) -> None:
        self.launched: list[tuple[int, int]] = []
        self._room = room
        self._memory: list[Any] = []

    def cuMemAlloc_v2(self, address: Any, size: Any) -> int:
        if size.value > self._room:
            return 2  # CUDA_ERROR_OUT_OF_MEMORY
        self._memory.append(ctypes.create_string_buffer(size.value))
        address._obj.value = ctypes.addressof(self._memory[-1])
        return 0

    def cuMemcpyHtoD_v2(self, to: Any, values: Any, size: Any) -> int:
        ctypes.memmove(to.value, values, size.value)
        return 0

    def cuMemcpyDtoH_v2(self, values: Any, at: Any, size: Any) -> int:
        ctypes.memmove(values, at.value, size.value)
        return 0

    def cuLaunchKernel(self, _kernel: Any, grid: int, _y: int, _z: int, block: int, *more: Any) -> int:
        self.launched.append((grid, block))
        addresses = [ctypes.c_uint64.from_address(pointer).value for pointer in more[4][:3]]
        width = ctypes.c_uint32.from_address(more[4][3]).value
        left, right, product = ((ctypes.c_float * (width * width)).from_address(each) for each in addresses)
        for thread in range(min(grid * block, width * width)):
            row, column = divmod(thread, width)
            product[thread] = sum(left[row * width + k] * right[k * width + column] for k in range(width))
        return 0

    def __getattr__(self, name: str) -> Any:
        """Every other call succeeds."""
        return lambda *_: 0


def run_with(directory: Path, *, nvidia_smi: str | None) -> subprocess.CompletedProcess[str]:
    """The GPU run where PATH has that `nvidia-smi`, or none."""
    (directory / "python3").symlink_to(sys.executable)
    if nvidia_smi is not None:
        (directory / "nvidia-smi").write_text(f"#!/bin/sh\n{nvidia_smi}\n")
        (directory / "nvidia-smi").chmod(0o755)
    return subprocess.run([RUN], env={"PATH": str(directory)}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("nvidia_smi", "reason"),
    [
        (None, "there is no nvidia-smi"),
        ("echo 'No devices were found'; exit 6", "No devices were found"),
        ('echo "couldn\'t communicate with the NVIDIA driver" >&2; exit 9', "communicate with the NVIDIA driver"),
    ],
)
def test_without_a_gpu_the_run_skips_with_the_reason(nvidia_smi: str | None, reason: str, tmp_path: Path) -> None:
    ran = run_with(tmp_path, nvidia_smi=nvidia_smi)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("skipped: no NVIDIA GPU: ")
    assert reason in ran.stdout


def test_the_engine_launches_a_thread_for_each_number_and_reads_the_product() -> None:
    driver = Driver()

    product = Gpu(driver, memory=4096).multiply(tokens("the quick brown fox"))

    assert product[:WIDTH] == expected("the quick brown fox")
    ((grid, block),) = driver.launched
    assert grid * block >= WIDTH * WIDTH > (grid - 1) * block


def test_an_engine_without_room_on_the_gpu_ends_with_the_error_of_cuda() -> None:
    with pytest.raises(SystemExit, match="cuMemAlloc_v2 failed with CUDA error 2"):
        Gpu(Driver(room=0), memory=4096)
