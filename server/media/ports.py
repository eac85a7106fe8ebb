"""UDP ports of a range for the sockets of calls, where aioice lets the system choose any."""

import asyncio
import errno
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

_PATCHED: Final = "_percepnet_binds_in_range"


class PortRange:
    """Sockets that are made inside of :meth:`binding` get a port of ``ports``, where they asked for any.

    aioice has no option for that; it asks the event loop for an endpoint at ``(address, 0)``, and passes over
    addresses that it cannot bind to. So the loop's method is made to look whether it is called from inside.
    """

    def __init__(self, ports: range) -> None:
        self.exhausted = False  # no port was free for one of the sockets
        self._ports = ports

    def __str__(self) -> str:
        return f"{self._ports.start}-{self._ports.stop - 1}"

    @contextmanager
    def binding(self) -> Iterator[None]:
        _patch(asyncio.get_running_loop())
        token = _active.set(self)
        try:
            yield
        finally:
            _active.reset(token)

    def socket(self, host: str) -> socket.socket:
        """Bound to ``host`` and a free port; raises ``OSError``."""
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            bound.setblocking(False)
            first = random.randrange(len(self._ports))
            for port in (*self._ports[first:], *self._ports[:first]):
                try:
                    bound.bind((host, port))
                except OSError as error:
                    if error.errno not in (errno.EADDRINUSE, errno.EACCES):  # below 1024, which is for root
                        raise
                else:
                    return bound
            self.exhausted = True
            raise OSError(errno.EADDRINUSE, f"no UDP port of {self} is free at {host}")
        except BaseException:
            bound.close()
            raise


_active: ContextVar[PortRange | None] = ContextVar("port range", default=None)


def _patch(loop: asyncio.AbstractEventLoop) -> None:
    if hasattr(loop, _PATCHED):
        return
    original = loop.create_datagram_endpoint

    async def create(factory: Any, local_addr: Any = None, **options: Any) -> Any:
        active = _active.get()
        if active is None or local_addr is None or local_addr[1] != 0:
            return await original(factory, local_addr=local_addr, **options)
        bound = active.socket(local_addr[0])
        try:
            return await original(factory, sock=bound, **options)
        except BaseException:
            bound.close()
            raise

    loop.create_datagram_endpoint = create  # type: ignore[method-assign,assignment]
    setattr(loop, _PATCHED, True)
