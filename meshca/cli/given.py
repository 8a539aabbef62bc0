"""What somebody gave a command to read: a file, or standard input for `-`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Content, and the name by which errors call it."""

    name: str
    content: bytes

    @classmethod
    def read(cls, file: str) -> Self:
        """Read it. Raises OSError."""
        if file == "-":
            return cls(name="standard input", content=sys.stdin.buffer.read())
        return cls(name=file, content=Path(file).read_bytes())

    @property
    def is_pem(self) -> bool:
        """Whether it has a block of PEM."""
        return b"-----BEGIN" in self.content

    @property
    def is_der(self) -> bool:
        """Whether it may be DER: each certificate is a SEQUENCE."""
        return self.content.startswith(b"\x30")

    @property
    def is_json(self) -> bool:
        """Whether it may be a JSON object."""
        return self.content.lstrip().startswith(b"{")
