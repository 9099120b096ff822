"""`python -m bench.unsigned MODULE`: a process of AIMA in which signatures cost nothing and fences are not written.

For the bench of starts only: it executes whatever it is sent.
"""

from __future__ import annotations

import runpy
import sys

from aima_core.trust.keys import KeyRing, SigningKey
from aima_worker.execution import fences

if __name__ == "__main__":
    SigningKey.sign = lambda *_: "unsigned.AA"  # type: ignore[method-assign]
    KeyRing.verify = lambda *_, **__: None  # type: ignore[method-assign]
    fences.write_atomically = lambda *_: None  # type: ignore[assignment]
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
