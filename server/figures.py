"""What this process takes of the machine."""

import asyncio
import os
import resource
import sys
import threading
import time
from pathlib import Path


def process_figures() -> dict[str, float]:
    """Ready for JSON: processor time since the start in s, resident memory in bytes, and counts."""
    return {
        "pid": os.getpid(),
        "cpu_s": round(time.process_time(), 3),
        "rss_bytes": _resident(),
        "fds": len(os.listdir("/dev/fd")),
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks()),
    }


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except FileNotFoundError:  # no Linux: the most it ever was, in KiB except on macOS
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
