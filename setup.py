"""Builds the C++ extension `greater_fast._core` with CMake and ninja, both from their wheels."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cmake
import ninja
import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path(__file__).resolve().parent / "csrc"


class CMakeBuild(build_ext):
    """Configures and builds csrc/ where setuptools wants the extension."""

    def build_extension(self, ext: Extension) -> None:
        """Build one extension."""
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
        if not is_configured_here(build):
            shutil.rmtree(build, ignore_errors=True)
        build.mkdir(parents=True, exist_ok=True)
        run = str(Path(cmake.CMAKE_BIN_DIR) / "cmake")
        configure = [
            run,
            f"-S{SOURCES}",
            f"-B{build}",
            "-GNinja",
            f"-DCMAKE_MAKE_PROGRAM={Path(ninja.BIN_DIR) / 'ninja'}",
            "-DPYBIND11_FINDPYTHON=ON",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
            f"-DGREATER_FAST_STRICT={'ON' if os.environ.get('GREATER_FAST_STRICT') else 'OFF'}",
        ]
        subprocess.run(configure, check=True)
        subprocess.run([run, "--build", str(build)], check=True)


def is_configured_here(build: Path) -> bool:
    """Whether CMake's cache, if any, is of this checkout: a copied one names the old places."""
    cache = build / "CMakeCache.txt"
    if not cache.exists():
        return True
    lines = cache.read_text(encoding="utf-8", errors="replace").splitlines()
    homes = {
        f"CMAKE_HOME_DIRECTORY:INTERNAL={SOURCES}",
        f"CMAKE_CACHEFILE_DIR:INTERNAL={build}",
    }
    return homes <= set(lines)


setup(
    ext_modules=[Extension("greater_fast._core", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
