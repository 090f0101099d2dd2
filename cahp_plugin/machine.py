"""The machine, as far as quantized arithmetic and reports of latency and memory need to know it."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import psutil

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")


def cpu_name() -> str:
    """Name of the processor as the system gives it."""
    return _cpuinfo("model name", "Model") or platform.processor() or platform.machine()


def cpu_flags() -> tuple[str, ...]:
    """The vector instructions that int8 and fp32 speed depend on, as far as the system lists them (Linux)."""
    present = _cpuinfo("flags", "Features").split()
    return tuple(flag for flag in _FLAGS if flag in present)


def peak_memory() -> int:
    """Peak resident memory of this process, bytes.

    On Linux from ``/proc``: the peak that ``getrusage`` gives is at least that of the process that started this one.
    """
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpuinfo(*names: str) -> str:
    """What Linux says first under one of these names; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    entries = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in entries if name.strip() in names), "")


def saturates_int8() -> bool:
    """Whether products of two int8 pairs overflow 16 bits here: an x86 processor that is not known to have VNNI."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
    return x86 and not {"avx512_vnni", "avx_vnni"} & set(cpu_flags())
