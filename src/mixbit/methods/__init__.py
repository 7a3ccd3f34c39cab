"""One file a published search method; all end in Scores, which `mixbit.allocation.allocate` turns into a policy."""

from mixbit.methods.limpq import Limpq, LimpqInit
from mixbit.methods.registry import CostClass, Info, Method, info, make, names, register

__all__ = ["CostClass", "Info", "Limpq", "LimpqInit", "Method", "info", "make", "names", "register"]
