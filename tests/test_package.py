"""The installed package: what it says of itself, what it needs, and the README's example."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tla_ops
from tla_ops import _library

ROOT = Path(__file__).parents[1]


def test_the_installed_package_is_tested():
    assert ROOT not in Path(tla_ops.__file__).parents or "site-packages" in tla_ops.__file__


def test_build_info():
    info = tla_ops.build_info()
    assert info["version"] == tla_ops.__version__
    assert info["torch"] == torch.__version__
    assert info["torch_abi"] == "2.10"
    assert info["cpu"]["in_use"] in info["cpu"]["available"]
    assert set(info["cpu"]["available"]) <= set(info["cpu"]["compiled"])
    assert info["cuda"]["built"] == _library.CUDA_LIBRARY.exists()
    assert info["cuda"]["built"] or info["cuda"]["reason"]
    assert re.fullmatch("[0-9a-f]{64}", info["cuda"]["sources_sha256"])
    assert isinstance(info["verified"], list)
    json.dumps(info)


@pytest.mark.parametrize("name", ["libtla_ops_cpu.so", "_build_info*.so", "libtla_ops_cuda.so"])
def test_the_libraries_hold_no_path_of_the_machine_that_built_them(name):
    if "cuda" in name and not _library.CUDA_LIBRARY.exists():
        pytest.skip("built without CUDA: " + tla_ops.build_info()["cuda"]["reason"])
    (library,) = Path(tla_ops.__file__).parent.glob(name)
    content = library.read_bytes()
    assert b"site-packages" not in content
    assert b"/csrc/cpu/" not in content
    assert b"/csrc/cuda/" not in content
    assert b"torch/csrc/stable" in content or name.startswith("_")


def test_every_operator_has_a_cuda_kernel_where_torch_has_cuda():
    """The CUDA library loads without a GPU, too."""
    if not _library.CUDA_LIBRARY.exists():
        pytest.skip("built without CUDA: " + tla_ops.build_info()["cuda"]["reason"])
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    of_processors = {f"tla_ops::{n}" for n in ("use_instruction_set", "pack_pool", "repack_pool")}
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("tla_ops::") and name not in of_processors:
            assert has_kernel(name, "CUDA") == (torch.version.cuda is not None), name


def test_public_names_are_there_and_documented():
    for name in tla_ops.__all__:
        assert getattr(tla_ops, name).__doc__, name


def test_the_import_needs_torch_alone():
    code = (
        "import sys\n"
        "for name in ('numpy', 'sklearn', 'matplotlib', 'rich', 'pytest', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "import tla_ops\n"
        "assert 'tla_ops.training' not in sys.modules\n"
        "assert 'tla_ops.cli' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _copy_without_library(tmp_path):
    package = tmp_path / "tla_ops"
    ignore = shutil.ignore_patterns("libtla_ops_*", "__pycache__")
    shutil.copytree(Path(tla_ops.__file__).parent, package, ignore=ignore)
    return package


def test_a_missing_library_says_how_to_build_it(tmp_path):
    _copy_without_library(tmp_path)
    command = [sys.executable, "-c", "import tla_ops"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ImportError: tla_ops: the compiled library libtla_ops_cpu.so")
    assert "pip install ." in message


def test_an_old_torch_is_named(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ImportError, match=r"torch >= 2\.10, this is torch 2\.9\.1\+cpu"):
        _library.load()


def test_a_cuda_tensor_without_kernels_says_how_to_build_them(monkeypatch):
    monkeypatch.setattr(_library, "CUDA_LIBRARY", Path("nowhere.so"))
    message = _library.missing_cuda_message()
    assert "no CUDA kernels" in message
    assert "tla_ops.reference" in message
    assert ("TLA_OPS_CUDA=on" in message) == tla_ops.build_info()["cuda"]["kernels"]

    class Device:
        type, index = "cuda", 7

    class FakeTensor:
        device, is_cpu = Device(), False

    from tla_ops import _dispatch

    with pytest.raises(RuntimeError, match="no CUDA kernels"):
        _dispatch.has_kernels(FakeTensor(), "cdist")


def test_a_device_without_kernels_says_so_once():
    from tla_ops import _dispatch

    class Device:
        type = "xpu"

    class FakeTensor:
        device, is_cpu = Device(), False

    with pytest.warns(UserWarning, match="no kernels for xpu"):
        assert not _dispatch.has_kernels(FakeTensor(), "cdist")
    assert not _dispatch.has_kernels(FakeTensor(), "mine")  # a second warning would be an error


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="the README is not beside the tests")
def test_the_readme_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    loss, training = blocks
    names = {}
    exec(loss, names)
    assert names["loss"].isfinite()
    assert names["encoder"].weight.grad.abs().sum() > 0
    names = {}
    exec(training, names)
    assert names["step"].loss.isfinite()
    assert all(p.grad.abs().sum() > 0 for p in names["network"].parameters())


@pytest.mark.parametrize(
    ("name", "last"),
    [
        *((name, "step 200") for name in ("quickstart", "own_model", "memory_bank")),
        ("at2l_regularizer", "step 200"),
        ("at2l_rounds", "round 2"),
        ("at2l_defences", "Defense-GAN: clean"),
    ],
)
def test_examples_run(name, last, tmp_path):
    if name == "at2l_rounds":
        pytest.importorskip("lightning", reason="trains with Lightning Fabric: extra [train]")
    if name in ("at2l_rounds", "at2l_defences"):
        pytest.importorskip("sklearn", reason="the digits are scikit-learn's: extra [train]")
    script = ROOT / "examples" / f"{name}.py"
    if not script.exists():
        pytest.skip("the examples are not beside the tests")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert last in done.stdout
