"""Accelerator detection on recorded machines, and the reasons for GPUs that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from worker.node.recorded import MACHINES, found_on, nvml_of, reading_of

from aima_core.domain.hosts import Accelerator
from aima_worker.node.accelerators import Machine, shares_memory, this_machine
from aima_worker.node.nvml import read

GB = 1_000_000_000


def kinds(machine: str) -> list[str]:
    return [each.kind for each in found_on(machine).accelerators]


def shared(machine: str) -> bool:
    return shares_memory(found_on(machine).accelerators)


@pytest.mark.parametrize(
    ("machine", "has"),
    [
        ("no_driver", []),
        ("one_card", ["cuda"]),
        ("two_cards", ["cuda", "cuda"]),
        ("a100_with_instances", ["cuda", "cuda"]),
        ("gb10", ["gb10"]),
        ("gb10_that_counts_host_memory", ["gb10"]),
        ("orin", ["orin"]),
        ("orin_without_nvml", ["orin"]),
        ("orin_in_a_container", ["orin"]),
        ("orin_with_a_card", ["cuda"]),
        ("thor", ["thor"]),
        ("xavier", ["xavier"]),
        ("older_jetson", ["jetson"]),
    ],
)
def test_each_recorded_machine_has_its_kind_of_accelerators(machine: str, has: list[str]) -> None:
    assert kinds(machine) == has
    assert found_on(machine).trouble is None


def test_a_card_has_dedicated_memory_and_a_device_id() -> None:
    assert found_on("one_card").accelerators == (
        Accelerator(
            kind="cuda",
            name="NVIDIA GeForce RTX 4090",
            id="GPU-5f1c7a0e-3c5e-7b0c-9a3e-0d6f1f2b8c11",
            memory=25_757_220_864,
            compute_capability="8.9",
        ),
    )
    assert not shared("one_card")


def test_a_card_in_mig_mode_is_its_instances_with_their_ids_and_memory() -> None:
    card = "NVIDIA A100-SXM4-40GB"

    assert [(each.name, each.id, each.memory) for each in found_on("a100_with_instances").accelerators] == [
        (f"{card} MIG 3g.20gb", "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", 20_937_965_568),
        (f"{card} MIG 1g.5gb", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb", 5_100_273_664),
    ]
    assert {each.compute_capability for each in found_on("a100_with_instances").accelerators} == {"8.0"}


def test_a_card_in_mig_mode_without_instances_cannot_be_used_and_the_fix_is_named() -> None:
    found = found_on("a100_without_instances")

    assert found.accelerators == ()
    assert found.trouble is not None
    assert "MIG mode" in found.trouble.said
    assert "nvidia-smi mig" in found.trouble.mend


def test_two_cards_of_one_model_have_different_ids() -> None:
    assert len({each.id for each in found_on("two_cards").accelerators}) == 2


@pytest.mark.parametrize(
    "machine",
    ["gb10", "gb10_that_counts_host_memory", "orin", "orin_without_nvml", "orin_in_a_container", "thor", "xavier"],
)
def test_with_shared_memory_the_gpu_has_no_dedicated_memory(machine: str) -> None:
    assert [each.memory for each in found_on(machine).accelerators] == [None]
    assert shared(machine)


def test_zero_bytes_of_gpu_memory_mean_no_dedicated_memory() -> None:
    assert [device.memory for device in reading_of("orin_in_a_container").devices] == [None]


def test_a_jetson_is_recognized_by_its_board_and_chip_without_nvml() -> None:
    (gpu,) = found_on("orin").accelerators

    assert gpu.name == "NVIDIA Jetson AGX Orin Developer Kit"
    assert gpu.compute_capability == "8.7"
    assert found_on("orin_without_nvml").accelerators == (gpu,)


@pytest.mark.parametrize(
    ("machine", "said", "mend"),
    [
        ("another_driver_than_the_library", "version mismatch", "reboot"),
        ("card_without_driver", "Driver Not Loaded", "modprobe nvidia"),
        ("driver_without_library", "Library Not Found", "--gpus all"),
    ],
)
def test_a_failing_driver_makes_a_cpu_host_with_the_reason(machine: str, said: str, mend: str) -> None:
    found = found_on(machine)

    assert found.accelerators == ()
    assert found.trouble is not None
    assert said in found.trouble.said
    assert mend in found.trouble.mend


def test_a_lost_card_hides_none_of_the_others() -> None:
    found = found_on("a_lost_card")

    assert len(found.accelerators) == 1
    assert found.trouble is not None
    assert "GPU 1: GPU is lost" in found.trouble.said


@pytest.mark.parametrize("machine", [file.stem for file in MACHINES])
def test_nvml_is_always_shut_down(machine: str) -> None:
    nvml = nvml_of(machine)

    read(nvml)

    assert nvml.open == 0


# The machine ------------------------------------------------------------------------------------------------------


def test_a_jetson_is_recognized_by_its_device_tree(tmp_path: Path) -> None:
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "model").write_bytes(b"NVIDIA Jetson AGX Thor Developer Kit\0")
    (tree / "compatible").write_bytes(b"nvidia,p3834-0008\0nvidia,tegra264\0")

    machine = this_machine(tmp_path)

    assert machine.model == "NVIDIA Jetson AGX Thor Developer Kit"
    assert machine.chips == ("nvidia,p3834-0008", "nvidia,tegra264")
    assert machine.is_jetson


def test_a_jetson_is_recognized_by_its_system_software(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.7, GCID: 1, BOARD: generic")

    assert this_machine(tmp_path).is_jetson


@pytest.mark.parametrize(
    ("vendor", "kind", "is_gpu"),
    [
        ("0x10de", "0x030000", True),
        ("0x10de", "0x030200", True),
        ("0x10de", "0x040300", False),
        ("0x8086", "0x030000", False),
    ],
)
def test_a_gpu_on_the_pci_bus_is_found_without_a_driver(tmp_path: Path, vendor: str, kind: str, is_gpu: bool) -> None:
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")

    assert this_machine(tmp_path).nvidia_on_bus == is_gpu


def test_a_machine_without_any_of_these_has_no_accelerator(tmp_path: Path) -> None:
    assert this_machine(tmp_path) == Machine()
