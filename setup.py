"""The one thing that pyproject.toml cannot say: an optional C file, compiled where there is a compiler.

It is plain C, loaded with ctypes, and includes no header of Python or torch. It is not linked against an OpenMP
runtime: the symbols come from the one that torch has loaded, so that a process never holds two thread pools.
Where the compilation fails, the install goes on and mixbit uses its PyTorch implementation.
"""

import sys

from setuptools import Extension, setup

# No contraction into fused multiply-adds: results must equal those of PyTorch's separate operations, bit for bit.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
OPENMP = ["-fopenmp"] if sys.platform.startswith("linux") else []  # elsewhere the pragmas are ignored: one thread

kernels = Extension(
    "mixbit.quantizers._kernels",
    sources=["src/mixbit/quantizers/_kernels.c"],
    extra_compile_args=FLAGS + OPENMP,
    optional=True,
)

setup(ext_modules=[] if sys.platform == "win32" else [kernels])
