"""Settings of the host's C library that decide how fast a CPU trains."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP = 1 << 30


def reuse_freed_memory() -> bool:
    """Tell glibc to keep freed blocks instead of giving them back to the kernel; was it told?

    A training step frees and asks again for the same large tensors.  By default each of them is a fresh mapping whose
    every page faults anew: half a million faults in eight steps of the demo's model, a sixth of the time (measured on
    two cores: 5.2k tokens per CPU second before, 6.3k after, resident memory unchanged).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):       # a C library without it (musl)
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEEP) and mallopt(M_TRIM_THRESHOLD, KEEP))
