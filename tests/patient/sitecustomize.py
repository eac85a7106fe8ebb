"""What the servers that tests start as processes begin with: however busy the machine, they shed no call, take no
pause of the engine for its end and wait long for a worker's figures. Overload and faults have tests of their own.
"""

import contextlib
import sys

if any(word in " ".join(sys.orig_argv) for word in ("serve", "sidecar", "load", "weather", "spawn_main")):
    with contextlib.suppress(ImportError):  # another Python
        from server import engine, front
        from server.overload import Overload

        Overload.note = lambda *_: 0  # type: ignore[method-assign]
        engine.STANDSTILL = 20.0  # type: ignore[misc]
        front.GATHERING_TIME = 20.0  # type: ignore[misc]
