"""Compiles every case of `cases_*.py` for every target and prints what the code needs, as JSON.

Needs no GPU, but a process of its own without TRITON_INTERPRET: a function that was made under the
interpreter cannot be compiled.
"""

import importlib
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from greater_fast.kernels.tiles import PRECISION
from tests.kernels.compiling.compile_case import CompileCase

TARGETS = [
    GPUTarget("cuda", 80, 32),
    GPUTarget("cuda", 90, 32),
    GPUTarget("cuda", 100, 32),
    GPUTarget("hip", "gfx942", 64),
]
SHARED_BYTES = {"cuda": 99 * 1024, "hip": 64 * 1024}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def find_cases() -> list[CompileCase]:
    """The cases of every `cases_*.py` beside this file."""
    modules = sorted(path.stem for path in Path(__file__).parent.glob("cases_*.py"))
    room = CompileCase.__module__.rpartition(".")[0]
    found = [importlib.import_module(f"{room}.{module}").CASES for module in modules]
    return [case for cases in found for case in cases]


def compile_case(case: CompileCase, target: GPUTarget) -> dict[str, Any]:
    """Registers and spills of a thread, shared memory of a block, minima that drop a NaN."""
    types = {name: kind.removesuffix(":16") for name, kind in case.signature.items()}
    aligned = [kind.startswith("*") or kind.endswith(":16") for kind in case.signature.values()]
    constants = dict(case.constants)
    if "PRECISION" in case.kernel.arg_names:
        types["PRECISION"] = "constexpr"
        constants["PRECISION"] = "ieee" if target.backend == "hip" else PRECISION
    source = ASTSource(
        fn=case.kernel,
        signature=types,
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i, yes in enumerate(aligned) if yes},
    )
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    try:
        compiled = triton.compile(source, target=target, options=options)
    except Exception as error:
        error.add_note(f"while compiling {case.name} for {target.arch}")
        raise
    usage = _amd_usage if target.backend == "hip" else _nvidia_usage
    registers, spills = usage(compiled.asm)
    return {
        "case": case.name,
        "kernel": case.kernel.fn.__name__,
        "target": str(target.arch),
        "registers": registers,
        "spills": spills,
        "max_spills": case.spills.get(str(target.arch), 0),
        "dropping_minima": compiled.asm["ttir"].count("arith.minnumf"),
        "shared_bytes": compiled.metadata.shared,
        "max_registers": 512 if target.backend == "hip" else case.max_registers,
        "max_shared_bytes": min(case.max_shared_bytes, SHARED_BYTES[target.backend]),
    }


def _nvidia_usage(asm: dict[str, Any]) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack and local memory: what spilled."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {name: int(value) for name, value in re.findall(r"\b([A-Z]+):(\d+)", text)}
    return found["REG"], found["STACK"] + found["LOCAL"]


def _amd_usage(asm: dict[str, Any]) -> tuple[int, int]:
    """Vector registers of a lane, and how many of them spilled; scalar ones spill into those."""
    found = {n: int(v) for n, v in re.findall(r"\.(\w+_count):\s+(\d+)", asm["amdgcn"])}
    return found["vgpr_count"], found["vgpr_spill_count"]


def _compile(case: int, target: int) -> dict[str, Any]:
    """By their places: a kernel does not go over to another process."""
    return compile_case(find_cases()[case], TARGETS[target])


if __name__ == "__main__":
    with ProcessPoolExecutor() as pool:  # a compilation is on one core
        pairs = product(range(len(find_cases())), range(len(TARGETS)))
        results = list(pool.map(_compile, *zip(*pairs, strict=True)))
    json.dump(results, sys.stdout, indent=1)
