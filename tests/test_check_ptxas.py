"""tools/check_ptxas.py: what it reads in ptxas' report, and that a kernel that spills fails."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "check_ptxas.py"
spec = importlib.util.spec_from_file_location("check_ptxas", TOOL)
check_ptxas = importlib.util.module_from_spec(spec)
sys.modules["check_ptxas"] = check_ptxas  # dataclasses look their module up
spec.loader.exec_module(check_ptxas)

GOOD = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN3tla4cuda4goodIfLi3EEEvPT_' for 'sm_90a'
ptxas info    : Function properties for _ZN3tla4cuda4goodIfLi3EEEvPT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 512 bytes smem, 368 bytes cmem[0]
ptxas info    : Compile time = 0.983 ms
"""
SPILL = """\
ptxas warning : Registers are spilled to local memory in function '_Z5spillPf', 736 bytes spill stores
ptxas info    : Compiling entry function '_Z5spillPf' for 'sm_80'
ptxas info    : Function properties for _Z5spillPf
    736 bytes stack frame, 736 bytes spill stores, 944 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 736 bytes cumulative stack size
"""  # noqa: E501
STACK = """\
ptxas info    : Compiling entry function '_ZN3tla4cuda5stackEPi' for 'sm_80'
ptxas info    : Function properties for _ZN3tla4cuda5stackEPi
    256 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 72 registers, used 0 barriers, 256 bytes cumulative stack size
"""
CALLED = """\
ptxas info    : Compiling entry function '_Z6callerPi' for 'sm_80'
ptxas info    : Function properties for _Z6callerPi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for _Z6calleei
    24 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 20 registers, used 0 barriers
"""
needs_nvcc = pytest.mark.skipif(check_ptxas.find_nvcc() is None, reason="needs nvcc")


def test_a_clean_kernel():
    (kernel,) = check_ptxas.parse(GOOD)
    assert (kernel.arch, kernel.registers, kernel.shared) == ("sm_90a", 10, 512)
    assert kernel.clean
    assert check_ptxas.judge([kernel], []) == []


@pytest.mark.parametrize(
    ("report", "stack", "stores", "loads"),
    [(SPILL, 736, 736, 944), (STACK, 256, 0, 0), (CALLED, 24, 8, 8)],
    ids=["spill", "stack", "called"],
)
def test_spills_and_stack_frames_fail(report, stack, stores, loads):
    good, bad = check_ptxas.parse(GOOD + report)
    assert good.clean
    assert (bad.stack, bad.spill_stores, bad.spill_loads) == (stack, stores, loads)
    (problem,) = check_ptxas.judge([good, bad], ["good"])
    assert bad.name in problem
    assert "FAILS" in check_ptxas.table([good, bad]).splitlines()[2]


def test_a_pattern_allows():
    kernels = check_ptxas.parse(SPILL + STACK)
    assert len(check_ptxas.judge(kernels, ["spill"])) == 1
    assert check_ptxas.judge(kernels, ["spill", "st.ck"]) == []
    assert check_ptxas.table(kernels).count("allowed") == 2


def test_one_kernel_on_two_architectures_is_two():
    kernels = check_ptxas.parse(GOOD + GOOD.replace("sm_90a", "sm_80"))
    assert [k.arch for k in kernels] == ["sm_90a", "sm_80"]


SASS = """\
\t\tFunction : _ZN3tla4cuda19screen_wgmma_kernelEv
        /*0070*/                   HGMMA.64x256x16.F32 R24, gdesc[UR20], R24, UP0 ;
        /*0080*/              @!P1 UTMALDG.2D [UR8], [UR4] ;
        /*0090*/                   UTMALDG.2D.MULTICAST [UR8], [UR4], UR6 ;
\t\tFunction : _ZN3tla4cuda5otherEv
        /*0000*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
"""


def test_kernels_have_the_instructions_they_are_written_for():
    functions = check_ptxas.parse_sass(SASS)
    name, other = functions
    assert functions[other] == {"HMMA.16816.F32"}
    assert check_ptxas.missing(name, functions[name]) == []
    assert check_ptxas.missing(other, functions[other]) == []
    slow = check_ptxas.missing(name, functions[other])
    assert slow == ["HGMMA.64x256x16", "UTMALDG.2D.MULTICAST"]
    single = functions[name] - {"UTMALDG.2D.MULTICAST"}
    assert check_ptxas.missing(name, single) == ["UTMALDG.2D.MULTICAST"]
    (kernel,) = check_ptxas.parse(GOOD)
    kernel.missing = slow
    (problem,) = check_ptxas.judge([kernel], [])
    assert "has no HGMMA.64x256x16" in problem
    assert "FAILS" in check_ptxas.table([kernel])


def test_no_kernel_is_a_problem():
    assert check_ptxas.parse("ptxas info    : 0 bytes gmem\n") == []
    assert check_ptxas.judge([], []) == ["ptxas reported no kernel at all"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("void tla::cuda::good<float, 3>(float*)", "good<float, 3>"),
        ("void tla::cuda::mine<tla::Metric<(int)2>, (bool)1>(P)", "mine<Metric<(int)2>, (bool)1>"),
        ("tla::cuda::(anonymous namespace)::pack(tla::cuda::Args)", "pack"),
        ("_Z5spillPf", "_Z5spillPf"),
    ],
)
def test_short_names(name, expected):
    assert check_ptxas.short(name) == expected


def test_demangling():
    names = check_ptxas.demangle(["_ZN3tla4cuda4goodIfLi3EEEvPT_", "plain"])
    assert names[1] == "plain"
    assert names[0].startswith(("_ZN3tla", "void tla::cuda::good<float, 3>"))


def test_flags_are_those_of_the_build():
    flags = check_ptxas.cmake_flags(Path("/torch/include"))
    assert {"-std=c++20", "-O3", "--expt-relaxed-constexpr", "-DUSE_CUDA"} <= set(flags)
    assert any(flag.startswith("-DTORCH_TARGET_VERSION=0x") for flag in flags)


def test_without_nvcc(monkeypatch, capsys):
    monkeypatch.setattr(check_ptxas, "find_nvcc", lambda: None)
    assert check_ptxas.main([]) == 2
    assert "nvcc was not found" in capsys.readouterr().err


@needs_nvcc
def test_a_kernel_that_spills_on_purpose(tmp_path, capsys):
    source = tmp_path / "greedy.cu"
    source.write_text(
        "__global__ void greedy(float* x) {\n"
        "  float a[64];\n"
        "#pragma unroll\n"
        "  for (int i = 0; i < 64; i++) a[i] = x[i * 1024 + threadIdx.x];\n"
        "  __syncthreads();\n"
        "#pragma unroll\n"
        "  for (int i = 0; i < 64; i++) x[i] += a[i] * a[i * 7 % 64];\n"
        "}\n"
    )
    report = tmp_path / "report.json"
    roomy = [str(source), "--target", "sm_80", "--json", str(report)]
    assert check_ptxas.main(roomy) == 0, capsys.readouterr().err
    cramped = [*roomy, "--flag=-maxrregcount=24"]
    assert check_ptxas.main(cramped) == 1
    assert "greedy" in capsys.readouterr().err
    (kernel,) = json.loads(report.read_text())["kernels"]
    assert kernel["spill_stores"] > 0
    assert check_ptxas.main([*cramped, "--allow", "^greedy"]) == 0


@needs_nvcc
def test_what_does_not_compile_fails(tmp_path, capsys):
    source = tmp_path / "wrong.cu"
    source.write_text("__global__ void wrong() { nothing; }\n")
    assert check_ptxas.main([str(source), "--target", "sm_80"]) == 1
    assert "nothing" in capsys.readouterr().err
