"""Prints how many minima that drop a NaN the compiler makes of one that does, as JSON."""

import json

import triton
import triton.language as tl
from triton.compiler import ASTSource

from tests.kernels.compiling.compile_kernels import TARGETS


@triton.jit
def minimum_kernel(pointer):
    tl.store(pointer, tl.minimum(tl.load(pointer), 1.0))


if __name__ == "__main__":
    source = ASTSource(fn=minimum_kernel, signature={"pointer": "*fp32"}, constexprs={})
    compiled = triton.compile(source, target=TARGETS[0])
    print(json.dumps(compiled.asm["ttir"].count("arith.minnumf")))
