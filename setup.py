"""The one thing that pyproject.toml cannot say: optional C files, compiled where there is a compiler.

They are plain C, loaded with ctypes, and include no header of Python or torch. They are not linked against an OpenMP
runtime: the symbols come from the one that torch has loaded, so that a process never holds two thread pools.
Where the compilation fails, the install goes on and mixbit uses its PyTorch and Python implementations.
"""

import sys

from setuptools import Extension, setup

# No contraction into fused multiply-adds: results must equal those of PyTorch's separate operations, bit for bit.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
OPENMP = ["-fopenmp"] if sys.platform.startswith("linux") else []  # elsewhere the pragmas are ignored: one thread

FILES = ["mixbit.quantizers._kernels", "mixbit.topology._births", "mixbit.topology._lattice"]

libraries = [
    Extension(
        name,
        sources=[f"src/{name.replace('.', '/')}.c"],
        extra_compile_args=FLAGS + OPENMP,
        optional=True,
    )
    for name in FILES
]

setup(ext_modules=[] if sys.platform == "win32" else libraries)
