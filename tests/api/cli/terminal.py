"""A terminal emulator: runs a program on a pseudo-terminal and keeps the screen that its user would see."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

ROWS = 50
_SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\r|\n|\x1b.|.", re.DOTALL)


@dataclass
class Screen:
    """Cursor moves and erasures as programs use them here; lines that scroll out stay, as in a scrollback."""

    columns: int
    lines: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0

    def write(self, output: str) -> None:
        for found in _SEQUENCE.finditer(output):
            match found[0], found[2]:
                case "\r", _:
                    self.column = 0
                case "\n", _:
                    self._move_to(self.row + 1)
                    self.column = 0
                case _, "A":
                    self._move_to(self.row - int(found[1] or 1))
                case _, "K":
                    self.lines[self.row] = ""
                case text, None if text.isprintable():
                    self._put(text)

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).rstrip()

    def _put(self, character: str) -> None:
        if self.column == self.columns:
            self._move_to(self.row + 1)
            self.column = 0
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    def _move_to(self, row: int) -> None:
        self.row = max(row, 0)
        while len(self.lines) <= self.row:
            self.lines.append("")


def run_on_terminal(
    command: Sequence[str],
    *,
    columns: int,
    environment: Mapping[str, str],
    on_output: Callable[[str, Callable[[bytes], None]], None] = lambda *_: None,
) -> tuple[int, str]:
    """Its exit code and raw output. `on_output` gets all output so far, and a function that types."""
    pid, terminal = pty.fork()
    if pid == 0:
        # Race: set by the parent, the size may arrive after the program has asked for it.
        fcntl.ioctl(pty.STDIN_FILENO, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        os.execvpe(command[0], list(command), {**environment, "TERM": "xterm"} | dict(environment))
    output = b""
    try:
        while chunk := os.read(terminal, 4096):
            output += chunk
            on_output(output.decode("utf-8", "replace"), lambda typed: os.write(terminal, typed) and None)
    except OSError:  # Linux reports the end of a pseudo-terminal as EIO
        pass
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), output.decode("utf-8", "replace")
