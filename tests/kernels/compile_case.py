"""A Triton kernel with the shapes and types it is compiled for, where there is no GPU."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileCase:
    """One specialisation of a kernel and the limits its machine code must keep.

    `signature` names every argument's type as Triton writes it ("*bf16", "i32", "constexpr").
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2
    max_registers: int = 255
    max_shared_bytes: int = 99 * 1024  # what every listed GPU gives a block
