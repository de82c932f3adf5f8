"""Builds the compiled libraries with CMake and Ninja; everything else stands in pyproject.toml."""

from __future__ import annotations

import importlib.util
import os
import runpy
import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def torch_directory() -> Path:
    """Where torch is; not imported, so that a broken GPU driver cannot break a build."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            "tla_ops needs torch >= 2.10 to build: install it first, or drop --no-build-isolation"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def require(tool: str) -> str:
    """The tool that was installed beside this Python, whose environment may not be active."""
    search = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    path = shutil.which(tool, path=search)
    if path is None:
        raise SystemExit(f"tla_ops needs {tool} to build: pip install {tool}")
    return path


class CMakeBuild(build_ext):
    """Configures and builds the CMake project once, with its output beside the Python package."""

    def build_extension(self, ext: Extension) -> None:
        torch = torch_directory()
        if importlib.util.find_spec("pybind11") is None:
            raise SystemExit("tla_ops needs pybind11 to build: pip install pybind11")
        import pybind11

        # By its path: importing the package would need what is built here.
        evidence = runpy.run_path(str(ROOT / "tla_ops" / "_evidence.py"))
        sha256 = evidence["sources_sha256"](ROOT / "csrc")
        verified = evidence["verified"](ROOT / "benchmarks" / "results", sha256)
        cuda = os.environ.get("TLA_OPS_CUDA", "auto").lower()
        if cuda not in ("auto", "on", "off"):
            raise SystemExit(f"TLA_OPS_CUDA must be auto, on or off, got {cuda!r}")
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        variables = {
            "CMAKE_BUILD_TYPE": "Debug" if self.debug else "Release",
            "TLA_VERSION": self.distribution.get_version(),
            "TLA_TORCH_DIR": torch,
            "TLA_OUTPUT_DIR": output,
            "TLA_EXT_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
            "TLA_PYTHON_INCLUDE": sysconfig.get_path("include"),
            "TLA_PYBIND11_INCLUDE": pybind11.get_include(),
            "TLA_CUDA": cuda,
            "TLA_SOURCES_SHA256": sha256,
            "TLA_VERIFIED": evidence["packed"](verified),
        }
        cmake = require("cmake")
        # A build folder remembers the compilers and the torch of its first run, which may be gone.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        subprocess.run(
            [
                *(cmake, "-G", "Ninja", "-S", str(ROOT), "-B", str(build)),
                f"-DCMAKE_MAKE_PROGRAM={require('ninja')}",
                *(f"-D{name}={value}" for name, value in variables.items()),
            ],
            check=True,
        )
        jobs = [f"-j{self.parallel}"] if self.parallel else []
        subprocess.run([cmake, "--build", str(build), *jobs], check=True)


setup(
    ext_modules=[Extension("tla_ops._build_info", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
