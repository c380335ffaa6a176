"""A Triton kernel with the shapes and types it is compiled for, where there is no GPU."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileCase:
    """One specialisation of a kernel and the limits its machine code must keep.

    `signature` names every argument's type as Triton writes it ("*bf16", "i32", "constexpr").
    Pointers are taken to be multiples of 16 bytes, as torch allocates them; "i32:16" promises the
    same of a number, as a launch does where its value is a multiple of 16. A kernel's PRECISION is
    not named: it is what a launch on the target passes.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2
    max_registers: int = 255
    max_shared_bytes: int = 99 * 1024  # what every listed GPU gives a block; gfx942 gives 64 KiB
    spills: Mapping[str, int] = field(default_factory=dict)  # bytes of a thread that may, by target
