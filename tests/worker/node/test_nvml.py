"""NVML is read in a child process with a timeout, so a driver can neither crash nor block the worker."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import timedelta

from aima_worker.node.nvml import Device, Reading, nvml_reading

SOON = timedelta(milliseconds=300)
STARTED = timedelta(seconds=60)  # an interpreter on a busy machine
ONE_CARD = '{"devices": [{"name": "A", "uuid": "GPU-1", "memory": 8, "compute_capability": "9.0"}], "error": null}'


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code)


def test_nvml_on_this_machine_returns_devices_or_a_reason() -> None:
    reading = nvml_reading(within=STARTED)

    assert reading.devices or reading.error is None or reading.error.code not in ("Crashed", "Stuck"), reading


def test_the_output_of_the_probe_program_is_parsed() -> None:
    reading = nvml_reading(within=STARTED, program=python(f"print({ONE_CARD!r})"))

    assert reading == Reading(devices=(Device("A", "GPU-1", 8, "9.0"),))


def test_a_driver_that_never_answers_times_out() -> None:
    began = time.monotonic()

    reading = nvml_reading(within=SOON, program=python("import time; time.sleep(60)"))

    assert reading.error is not None
    assert reading.error.code == "Stuck"
    assert time.monotonic() - began < 30


def test_a_crashing_nvml_library_does_not_crash_the_worker() -> None:
    reading = nvml_reading(within=STARTED, program=python("import os; os.abort()"))

    assert reading.error is not None
    assert reading.error.code == "Crashed"
    assert reading.devices == ()


def test_the_worker_process_does_not_load_the_library() -> None:
    code = "import sys, aima_worker.node.hardware as h; h._detected(); print('pynvml' in sys.modules)"

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip().endswith("False")
