"""Files that are either whole or absent: written beside their place, synchronised, then renamed."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any


def write_json(path: Path, content: dict[str, Any], *, sync: bool = True) -> None:
    """Write ``content`` as indented JSON, see :func:`plain` and :func:`write_atomically`."""
    text = json.dumps(plain(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()), sync=sync)


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any], *, sync: bool = True) -> None:
    """Let ``write`` fill a temporary file in ``path``'s folder, made if needed, and rename it.

    Without ``sync`` the system decides when it reaches the disk: it is whole whatever becomes of
    the process, and may be lost or damaged if the machine stops.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        # mkstemp makes the file private; a result is as readable as any other new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):  # a signal may come right after the renaming
            os.unlink(temporary)
        raise


def plain(value: Any) -> Any:
    """``value`` with what strict JSON lacks replaced: numbers that are not finite by None, others
    by their text.
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    return str(value)
