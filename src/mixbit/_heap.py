"""Keep freed memory in the process, so that a training step does not fault in the same pages again and again."""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for the next step, for the rest of the process; whether it will.

    A training step allocates and frees hundreds of MiB. By default glibc gives much of that back to the system and
    asks for it again a moment later, and every page that comes back is zeroed by the kernel: 10,000 to 25,000 page
    faults in a step of ResNet-20 with 128 images. A process of our own (the command line, benchmarks) may keep what it
    has; a library must not decide that for its caller. Where the C library is another one, nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _NEVER)) and bool(mallopt(_MMAP_THRESHOLD, _NEVER))
