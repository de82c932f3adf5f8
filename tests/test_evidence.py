"""What counts as evidence that hardware has run the CUDA kernels of this version."""

import json
import re
import shutil
from pathlib import Path

import pytest

import tla_ops
from tla_ops import _evidence
from tla_ops.selftest import evidence
from tla_ops.types import OperatorCheck, SelfTestReport

ROOT = Path(__file__).parents[1]
SHA = "5" * 64


@pytest.fixture
def csrc(tmp_path):
    for name, content in {
        "common/metric.h": b"// metric\n",
        "cuda/mine.cu": b"// one\n// two\n",
        "cuda/mine.cuh": b"// body\n",
        "cuda/deep/er.cuh": b"",
        "cpu/mine.cpp": b"// another's\n",
    }.items():
        path = tmp_path / "csrc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "csrc"


def entry(sha256=SHA, passed=("mine",), device="NVIDIA H200", capability="9.0"):
    return {
        "kernels": {
            "sha256": sha256, "passed": list(passed), "device": device, "capability": capability,
        }
    }  # fmt: skip


def write(results, name, document):
    path = results / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))


def test_the_hash_is_of_names_and_contents(csrc):
    first = _evidence.sources_sha256(csrc)
    assert re.fullmatch("[0-9a-f]{64}", first)
    (csrc / "cuda/mine.cu").write_bytes(b"// one\r\n// two\r\n")
    (csrc / "cpu/mine.cpp").write_bytes(b"// changed\n")
    (csrc / "cuda/notes.txt~").write_bytes(b"an editor's")
    assert _evidence.sources_sha256(csrc) == first
    shutil.copytree(csrc, csrc.parent / "elsewhere" / "csrc")
    assert _evidence.sources_sha256(csrc.parent / "elsewhere" / "csrc") == first
    seen = {first}
    for change in (
        lambda: (csrc / "cuda/mine.cu").write_bytes(b"// one\n// three\n"),
        lambda: (csrc / "common/metric.h").write_bytes(b"// metrics\n"),
        lambda: (csrc / "cuda/deep/er.cuh").rename(csrc / "cuda/er.cuh"),
        lambda: (csrc / "cuda/new.cuh").write_bytes(b""),
        lambda: (csrc / "cuda/mine.cuh").unlink(),
    ):
        change()
        seen.add(_evidence.sources_sha256(csrc))
    assert len(seen) == 6


def test_entries_of_these_sources_count(tmp_path):
    write(tmp_path, "h200/a.json", entry(passed=["mine", "cdist"]) | {"rows": []})
    write(tmp_path, "h200/b.json", entry(passed=["triplet_loss", "mine"]))
    write(tmp_path, "a100/a.json", entry(device="NVIDIA A100", capability="8.0"))
    write(tmp_path, "other/a.json", entry("6" * 64, ["triplet_adv_loss"]))
    assert _evidence.verified(tmp_path, SHA) == [
        {"capability": "8.0", "device": "NVIDIA A100", "operators": ["mine"]},
        {
            "capability": "9.0",
            "device": "NVIDIA H200",
            "operators": ["cdist", "mine", "triplet_loss"],
        },
    ]
    assert _evidence.verified(tmp_path, "7" * 64) == []
    assert _evidence.verified(tmp_path / "nowhere", SHA) == []


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{",
        "[]",
        "3",
        {},
        {"kernels": None},
        {"kernels": SHA},
        {"kernels": {"sha256": SHA}},
        entry(passed=[]),
        entry(capability="sm_90"),
        entry(capability=None),
        {"kernels": entry()["kernels"] | {"passed": 3}},
    ],
)
def test_anything_else_is_passed_over(document, tmp_path):
    write(tmp_path, "machine/bad.json", document)
    write(tmp_path, "machine/good.json", entry())
    assert [r["operators"] for r in _evidence.verified(tmp_path, SHA)] == [["mine"]]


def test_files_deeper_or_higher_are_not_results(tmp_path):
    write(tmp_path, "a.json", entry())
    write(tmp_path, "a/b/c.json", entry())
    assert _evidence.verified(tmp_path, SHA) == []


def test_packing_for_the_compiler():
    records = [
        {"capability": "8.0", "device": "A", "operators": ["mine"]},
        {"capability": "9.0", "device": 'NV;"$(x)|:,\\ é', "operators": ["cdist", "mine"]},
    ]
    assert _evidence.packed(records) == "8.0:A:mine|9.0:NV   (x)      :cdist,mine"
    assert _evidence.packed([]) == ""


def test_a_report_becomes_evidence_of_the_sources_that_were_built(tmp_path):
    good = OperatorCheck(True, 3, 0.5, None)
    bad = OperatorCheck(False, 1, 0.5, "wrong index")
    report = SelfTestReport("cuda:0", "NVIDIA H200", "9.0", {"mine": good, "cdist": bad})
    assert report.passed == ["mine"]
    assert report.failed == {"cdist": "wrong index"}
    sha256 = tla_ops.build_info()["cuda"]["sources_sha256"]
    write(tmp_path, "h200/ops.json", {"kernels": evidence(report)})
    assert _evidence.verified(tmp_path, sha256) == [
        {"capability": "9.0", "device": "NVIDIA H200", "operators": ["mine"]}
    ]
    with pytest.raises(ValueError, match="report must be of a CUDA device, got cpu"):
        evidence(report._replace(device="cpu", capability=None))


@pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="the sources are not beside the tests")
def test_the_installed_package_knows_its_sources():
    info = tla_ops.build_info()
    sha256 = _evidence.sources_sha256(ROOT / "csrc")
    assert info["cuda"]["sources_sha256"] == sha256
    known = _evidence.verified(ROOT / "benchmarks" / "results", sha256)
    assert [r["operators"] for r in info["verified"]] == [r["operators"] for r in known]
    assert [r["capability"] for r in info["verified"]] == [r["capability"] for r in known]
