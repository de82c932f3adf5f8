"""The mining tables of docs/performance.md, from what bench_mine_negatives.py wrote."""

from __future__ import annotations

from collections import defaultdict

from mining_cases import BANK, GRID, OTHER_PATH, PATHS
from render_latency import line

NOT_RUN = "not run"
H200_MS = {640: 9.0, 1024: 14.0, 2048: 28.0, 4096: 56.0}
"""Targets on an H200: bfloat16, 65536 x 65536, by D."""
LARGEST = 65536
OF_MM, OF_READING, EXTRA_MB = 1 / 8, 1.25, 128
NOTES = f"""Milliseconds of `mine_negatives` (hardest, angular, ten classes; medians between CUDA
events; Gaussian features), by shape and path. `exact` and `fast`: the path that the plan chooses;
the others: that path alone, exact. `mm` and `mm_float16`: the bare product in the inputs' dtype
(float32 without TF32) and in float16, which neither mask nor pick. "of mm": the bare product's time
over that of `exact`. "read": reading the candidates once, in half the time of copying them. Extra
MB: what a call allocates; the limit is {EXTRA_MB} MB and a packed 16-bit copy of both sides.
Regret: how much farther the pick is than the true minimum in float64, over a sample of rows. A
dash: not for such a problem; "wrong": its picks were.
"""
HEAD = (
    *("B, M, D", "dtype", "exact", "fast", *PATHS, "mm", "mm_float16", "of mm", "TFLOP/s"),
    *("extra MB", "regret", "target", "met"),
)
LONG_NOTES = """Every row of that run, fastest first. `eager` is `tla_ops/reference.py`, which
stores all distances, `eager_chunks` its formula over chunks of anchors, rows normalised once, and
`compile` torch.compile of such a chunk. `flash_kmeans`, `faiss`, `sklearn` and `cuvs` know no
classes and get rows normalised beforehand: their regret is against what they look for. "of mm": the
time of the bare product in the inputs' dtype over the row's; "to float32 mm": the row's time over
the bare float32 product's.
"""
GPU_NOTES = """`compile` and `flash_kmeans`, which are slow to start, took their turns after the
others, and `flash_kmeans` chose among 8 of its tilings. Peak MB: beyond the inputs.
"""
CPU_NOTES = """`tla_ops_amx`, `…_avx512_vnni`, `…_avx512`, `…_avx2_int16`, `…_avx2` and `…_plain`
are ours by that path alone (the first that is there is `tla_ops` once more, as is `mine_fast`: the
search is exact either way), `tla_ops_bank` of a `FeatureBank` that keeps its rows packed.
`mm_float32` is the bare product of half-precision features in float32. `collapsed`: any two rows
have a cosine of about .92; `clusters`: 64 tight clusters; `duplicates`: 64 rows and noise of 1e-6;
`copies`: all candidates are one row. Process MB: the peak of a process that makes the problem and
calls the search once; peak MB: what of it a process does not have that only makes the problem.
"""
LONG_HEAD = (
    *("B, M, D", "dtype", "data", "mode", "implementation", "median ms", "20–80%", "TFLOP/s"),
    *("of mm", "to float32 mm", "peak MB", "process MB", "regret", "remark"),
)

Group = dict[tuple[str, str], dict]


def grid_tables(document: dict | None) -> list[str]:
    """Shapes by paths on a GPU; without a document, of the GPU that has not been used yet."""
    groups: dict[tuple, Group] = defaultdict(dict)
    for row in document["rows"] if document else ():
        if row.get("data", "gaussian") == "gaussian":
            groups[_problem(row)[:4]][row["mode"], row["impl"]] = row
    device = document["device"] if document else f"NVIDIA H200 ({NOT_RUN})"
    lines = [f"\n## Mining on a GPU: {device}\n"]
    if document:
        lines.append(_provenance(document))
    lines += [NOTES, line(HEAD), line(["---"] * len(HEAD))]
    for shape, dtype in GRID:
        lines.append(line(_grid_cells(shape, dtype, groups.get((*shape, dtype), {}))))
    return lines + _remarks(document or {})


def _grid_cells(shape: tuple[int, int, int], dtype: str, group: Group) -> list[str]:
    exact = group.get(("mine_exact", "tla_ops"), {})
    limit = EXTRA_MB + (0 if shape == BANK else packed_mb(shape))
    extra = _number(exact.get("peak_mb"), ".0f")
    target, met = _target(shape, dtype, group)
    return [
        ", ".join(map(str, shape)),
        dtype,
        _ms(group, "tla_ops"),
        _ms(group, "tla_ops", "mine_fast"),
        *(_ms(group, f"tla_ops_{path}") for path in PATHS),
        _ms(group, "mm"),
        _ms(group, "mm_float16") if dtype == "float32" else "–",
        _number(exact.get("of_mm"), ".0%"),
        _number(exact.get("tflops"), ".0f"),
        f"{extra} (≤ {limit:.0f})",
        _number(exact.get("regret"), ".0e"),
        target,
        met,
    ]


def packed_mb(shape: tuple[int, int, int]) -> float:
    b, m, d = shape
    return (b + m) * (-(-d // 64) * 64) * 2 / 2**20


def _target(shape: tuple[int, int, int], dtype: str, group: Group) -> tuple[str, str]:
    """What FACTS asks of this row, and whether it was met."""
    b, m, d = shape
    if shape == BANK:
        copied = _time(group, "copy")
        return f"≤ {OF_READING} × read", _met(group, copied and OF_READING * copied / 2)
    if (b, m) == (LARGEST, LARGEST) and dtype == "bfloat16":
        return f"≤ {H200_MS[d]:.0f} ms", _met(group, H200_MS[d])
    if (b, m, d) == (LARGEST, LARGEST, 1024):
        bare = _time(group, "mm")
        return "≤ 1/8 × mm", _met(group, bare and OF_MM * bare)
    return "", ""


def _met(group: Group, limit: float | None) -> str:
    ours = _time(group, "tla_ops")
    if ours is None or limit is None:
        return "no" if _is_wrong(group.get(("mine_exact", "tla_ops"), {})) else NOT_RUN
    return "yes" if ours <= limit else "no"


def _is_wrong(row: dict) -> bool:
    return not row.get("correct", True)


def _time(group: Group, impl: str, mode: str = "mine_exact") -> float | None:
    """Milliseconds; None where it was not measured, or its result was wrong."""
    row = group.get((mode, impl), {})
    return None if _is_wrong(row) else row.get("median_ms")


def _ms(group: Group, impl: str, mode: str = "mine_exact") -> str:
    row = group.get((mode, impl))
    if row is None:
        return NOT_RUN
    if _is_wrong(row):
        return "wrong"
    if row.get("error", "").startswith(OTHER_PATH):
        return "–"
    ms = _number(row.get("median_ms"), "#.3g", "failed").rstrip(".")
    return f"{ms} {row['path']}" if row.get("path") and impl == "tla_ops" else ms


def _number(value: float | None, form: str, otherwise: str = NOT_RUN) -> str:
    return otherwise if value is None else f"{value:{form}}"


def _problem(row: dict) -> tuple:
    return row["B"], row["M"], row["D"], row["dtype"], row.get("data", "gaussian")


def _provenance(document: dict) -> str:
    machine = f"CUDA {document['cuda']}, driver {document['driver']}"
    if "instruction_sets" in document:
        machine = f"instruction sets {', '.join(document['instruction_sets'])}"
    return (
        f"torch {document['torch']}, {machine}, commit {document['commit']}, "
        f"{document['date'][:10]}.\n"
    )


def long_table(document: dict) -> list[str]:
    """Every row, what failed last."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for row in document["rows"]:
        groups[_problem(row)].append(row)
    lines = [
        f"\n### Mining, every row: {document['device']}\n",
        _provenance(document),
        LONG_NOTES,
        (GPU_NOTES if "capability" in document else CPU_NOTES),
        line(LONG_HEAD),
        line(["---"] * len(LONG_HEAD)),
    ]
    for (b, m, d, dtype, data), rows in groups.items():
        bare = next((r.get("median_ms") for r in rows if r["impl"] == "mm"), None)
        for row in sorted(rows, key=lambda row: row.get("median_ms", float("inf"))):
            lines.append(line((f"{b}, {m}, {d}", dtype, data, *_long_cells(row, bare))))
    return lines


def _long_cells(row: dict, bare: float | None) -> list[str]:
    ms = row.get("median_ms")
    return [
        row["mode"],
        row["impl"],
        _number(ms, ".3f", "–"),
        f"{row['p20_ms']:.3f}–{row['p80_ms']:.3f}" if ms else "",
        _number(row.get("tflops"), ".3g", ""),
        f"{bare / ms:.0%}" if bare and ms and row["impl"] != "copy" else "",
        _number(row.get("times_float32_mm"), ".3f", ""),
        _number(row.get("peak_mb"), ".0f", ""),
        _number(row.get("process_mb"), ".0f", ""),
        _number(row.get("regret"), ".0e", ""),
        "; ".join(_remark(row)),
    ]


def _remark(row: dict) -> list[str]:
    said = []
    if row.get("repeats") == 1:
        said.append("a single call")
    if _is_wrong(row):
        said.append("wrong")
    if row.get("not_allowed"):
        said.append(f"{row['not_allowed']} picks of the own class or none")
    if row.get("path"):
        said.append(row["path"])
    if row.get("arithmetic"):
        said.append(row["arithmetic"])
    if row.get("memory_error"):
        said.append(f"memory: {row['memory_error']}")
    if row.get("error"):
        said.append(row["error"].replace("|", "/"))
    return said


def _remarks(document: dict) -> list[str]:
    lines = []
    for title, key in (("Wrong", "wrong"), ("Left out", "left_out")):
        if document.get(key):
            lines += [f"\n{title}:\n", *(f"- {entry}" for entry in document[key])]
    return lines
