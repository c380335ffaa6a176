"""The distributions and the repository's root are what users and transformers expect."""

import importlib.metadata
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import greater_fast.cli.main
from greater_fast.version import __version__

ROOT = Path(__file__).parents[2]
NOT_SOURCE = shutil.ignore_patterns(
    *(".git", ".venv*", ".*_cache", ".hypothesis", ".coverage*", ".benchmarks", "__pycache__"),
    *("*.egg-info", "build", "dist"),
)
# Building must not need torch, not even for the version.
BUILD = """
import sys
sys.modules["torch"] = None
from setuptools import build_meta
getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2])
"""


def build(kind: str, source: Path, out: Path) -> Path:
    command = [sys.executable, "-c", BUILD, kind, str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist, built from a copy of the repository."""
    work = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, work / "source", symlinks=True, ignore=NOT_SOURCE)
    archive = build("sdist", work / "source", work / "dist")
    with tarfile.open(archive) as tar:
        tar.extractall(work, filter="data")
    return work / f"greater_fast-{__version__}"


@pytest.fixture(scope="module")
def wheel(sdist_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from nothing but the sdist."""
    return zipfile.ZipFile(build("wheel", sdist_tree, tmp_path_factory.mktemp("wheel")))


def python_files(folder: Path) -> set[str]:
    paths = (
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
    )
    return {str(path.relative_to(folder)) for path in paths if path.suffix == ".py"}


def data_files() -> set[str]:
    """What the package holds beside its Python files."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["greater_fast"]
    found = [set((ROOT / "greater_fast").glob(pattern)) for pattern in patterns]
    assert all(found), "a pattern that no file has"
    return {str(path.relative_to(ROOT)) for paths in found for path in paths}


STUB = "greater_fast/_core.pyi"


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}

    package = {f"greater_fast/{name}" for name in python_files(ROOT / "greater_fast")}
    extensions = {name for name in names if name.startswith("greater_fast/_core.")} - {STUB}
    assert len(extensions) == 1
    assert names == package | extensions | data_files()


def test_wheel_kernels_are_real_files(wheel: zipfile.ZipFile) -> None:
    source = (ROOT / "greater_fast/kernels/reference.py").read_bytes()
    assert wheel.read("greater_fast/kernels/reference.py") == source


def test_wheel_metadata(wheel: zipfile.ZipFile) -> None:
    info = f"greater_fast-{__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert f"\nVersion: {__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "Apache License" in wheel.read(f"{info}/licenses/LICENSE").decode()
    assert (
        "greater-fast = greater_fast.__main__:main"
        in wheel.read(f"{info}/entry_points.txt").decode()
    )


def test_sdist_holds_what_building_and_testing_need(sdist_tree: Path) -> None:
    for name in ["pyproject.toml", "constraints.txt", "Makefile", "README.md", "LICENSE"]:
        assert (sdist_tree / name).is_file(), name
    assert (sdist_tree / "csrc/CMakeLists.txt").is_file()
    for folder in ["greater_fast", "tests", "benchmarks"]:
        assert python_files(sdist_tree / folder) == python_files(ROOT / folder), folder


@pytest.mark.skipif(not (ROOT / "kernels").exists(), reason="an sdist has no top-level kernels/")
def test_kernels_at_the_root_do_not_disturb_transformers() -> None:
    assert (ROOT / "greater_fast/kernels").resolve() == ROOT / "kernels"
    assert (ROOT / "kernels/__init__.py").read_bytes() == b""
    code = """
import importlib.util, os, sys
assert importlib.util.find_spec("kernels").origin == os.path.abspath("kernels/__init__.py")
from transformers import AutoModelForCausalLM
from transformers.utils import is_kernels_available
assert not is_kernels_available()
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_lists_of_sources_name_every_source() -> None:
    """A list made by a pattern is empty, and nothing says so, where the folders have moved."""
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.cpp")}
    headers = {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.h")}
    show = ["make", "--silent", "--eval=show: ; @echo $(CXX_SOURCES)", "show"]
    listed = subprocess.run(show, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(listed.split()) == sources | headers
    assert len(sources) > 10

    built = (ROOT / "csrc/CMakeLists.txt").read_text()
    assert all(source.removeprefix("csrc/") in built for source in sources)


def test_a_cache_of_another_place_is_not_built_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["setup.py", "--version"])
    monkeypatch.chdir(ROOT)
    names = runpy.run_path(str(ROOT / "setup.py"))
    assert __version__ in capsys.readouterr().out
    is_configured_here = names["is_configured_here"]
    assert is_configured_here(tmp_path)
    here = {"CMAKE_HOME_DIRECTORY": ROOT / "csrc", "CMAKE_CACHEFILE_DIR": tmp_path}
    for changed in (None, *here):
        places = here | ({changed: Path("/elsewhere")} if changed else {})
        lines = [f"{name}:INTERNAL={place}\n" for name, place in places.items()]
        (tmp_path / "CMakeCache.txt").write_text("# cache\n" + "".join(lines))
        assert is_configured_here(tmp_path) == (changed is None)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("place", "is_copied"), [(".", False), ("", False), ("../old", True)])
def test_a_copied_environment_is_made_anew(tmp_path: Path, place: str, is_copied: bool) -> None:
    stamp = tmp_path / "venv" / "python.stamp"
    stamp.parent.mkdir()
    stamp.write_text(f"{(stamp.parent / place).resolve()}\n" if place else "")
    made = subprocess.run(
        ["make", "--dry-run", f"VENV={stamp.parent}", str(stamp)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (f"rm -rf {stamp.parent}\n" in made) == is_copied
    assert (f"-m venv {stamp.parent}\n" in made) == is_copied


def test_the_extension_shares_torchs_openmp() -> None:
    """A second one would have threads of its own, which fight for the same cores."""
    code = """
import greater_fast.model.cpu.extension, pathlib, torch
maps = pathlib.Path("/proc/self/maps").read_text().splitlines()
(loaded,) = {line.split()[-1] for line in maps if "libgomp" in line or "libomp" in line}
assert pathlib.Path(loaded).is_relative_to(pathlib.Path(torch.__file__).parent), loaded
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not (ROOT / ".ci").exists(), reason="an sdist has no .ci/")
def test_wheels_are_not_made_for_a_python_that_is_not_here(tmp_path: Path) -> None:
    """Each missing one is named; without any there is no wheel, and that is a failure."""
    (tmp_path / "bin").mkdir()
    for name, script in {"python": 'touch "$5/a.tar.gz"', "auditwheel": "exit 9"}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / ".ci/wheels"), str(tmp_path), "2.9", "/no/python"],
        env={**os.environ, "VENV": str(tmp_path), "PYENV_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    told = [f"no Python {wanted} here: no wheel for it" for wanted in ("2.9", "/no/python")]
    assert done.stderr.splitlines() == told


def test_installed_version_is_the_source_version() -> None:
    try:
        installed = importlib.metadata.version("greater-fast")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("greater-fast is not installed here")
    assert installed == __version__


def test_python_dash_m_runs_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greater_fast.cli.main, "main", lambda: 3)
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")  # or the command would set it for good
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_module("greater_fast", run_name="__main__")
    assert exit_info.value.code == 3
