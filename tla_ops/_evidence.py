"""Which CUDA kernels a results file shows to have passed on hardware.

``setup.py`` runs this file by itself at build time, so it imports neither torch nor the package.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

FOLDERS = ("common", "cuda")
SUFFIXES = (".cpp", ".cu", ".cuh", ".h")


def sources_sha256(csrc: Path) -> str:
    """One hash over what CUDA kernels are made of, the same for either kind of line end.

    Args:
        csrc: the folder whose ``common`` and ``cuda`` hold the sources.
    """
    files = [p for name in FOLDERS for p in (csrc / name).rglob("*") if p.suffix in SUFFIXES]
    total = hashlib.sha256()
    for name, path in sorted((p.relative_to(csrc).as_posix(), p) for p in files):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def verified(results: Path, sha256: str) -> list[dict[str, Any]]:
    """What the results files in ``results/*/`` say of the kernels of these sources.

    Args:
        results: a folder with one folder a machine.
        sha256: of the sources. Files without a ``kernels`` entry that names it are passed over.

    Returns:
        ``{"capability": "9.0", "device": "NVIDIA H200", "operators": ["cdist", ...]}``, one for
        each device, by capability.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for path in sorted(results.glob("*/*.json")):
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))["kernels"]
            current = entry["sha256"] == sha256
            key = str(entry["capability"]), str(entry["device"])
            operators = {str(name) for name in entry["passed"]}
        except (ValueError, KeyError, TypeError):
            continue
        if current and operators and re.fullmatch(r"\d+\.\d+", key[0]):
            found.setdefault(key, set()).update(operators)
    return [
        {"capability": capability, "device": device, "operators": sorted(operators)}
        for (capability, device), operators in sorted(found.items())
    ]


def packed(records: list[dict[str, Any]]) -> str:
    """The records as one word-like string for a compiler's command line; build_info.cpp splits it.

    ``9.0:NVIDIA H200:cdist,mine|...``
    """
    return "|".join(
        ":".join(
            re.sub(r"[^\w .,()-]", " ", text, flags=re.ASCII)
            for text in (r["capability"], r["device"].replace(",", " "), ",".join(r["operators"]))
        )
        for r in records
    )
