"""What the machine can do, a setting of its C library that decides how fast a CPU trains, and which addresses are
its own."""

import ctypes
import sys
from urllib.parse import urlsplit

from apo.lazy import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP = 1 << 30


def computes_bf16(device) -> bool:
    """Has the hardware instructions for bf16?  Elsewhere it is emulated, slower than fp32.  `device`: torch.device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


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


def is_local(url: str) -> bool:
    """Whether a server's address is this machine's own."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
