"""One file a published search method; all end in Scores, which `mixbit.allocation.allocate` turns into a policy."""

from mixbit.methods.limpq import Limpq, LimpqInit
from mixbit.methods.registry import Method, make, names, register, summary

__all__ = ["Limpq", "LimpqInit", "Method", "make", "names", "register", "summary"]
