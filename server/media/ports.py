"""Where the sockets of calls are: at which address, and at ports of which range, where aioice takes all and any."""

import asyncio
import errno
import ipaddress
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from aioice.ice import get_host_addresses

_PATCHED: Final = "_percepnet_chooses_sockets"


class Sockets:
    """Sockets that are made inside of :meth:`binding` get a port of ``ports``, where they asked for any; and of IP's
    version of ``address`` there are those at that address only.

    aioice has no option for that; it asks the event loop for an endpoint at ``(address, 0)``, of each address of the
    machine, and passes over those that it cannot bind to. So the loop's method is made to look whether it is called
    from inside.
    """

    def __init__(self, ports: range | None = None, address: str | None = None) -> None:
        self.exhausted = False  # no port was free for one of the sockets
        self._ports = ports
        self._only = None if address is None else ipaddress.ip_address(address)

    def __str__(self) -> str:
        return "any" if self._ports is None else f"{self._ports.start}-{self._ports.stop - 1}"

    @contextmanager
    def binding(self) -> Iterator[None]:
        _patch(asyncio.get_running_loop())
        token = _active.set(self)
        try:
            yield
        finally:
            _active.reset(token)

    def socket(self, host: str) -> socket.socket | None:
        """Bound to ``host`` and a free one of ``ports``; None where any will do.

        Raises ``OSError`` where none is free, and where no socket is wanted.
        """
        address, only, ports = ipaddress.ip_address(host), self._only, self._ports
        if only is not None and address.version == only.version and address != only:
            raise OSError(errno.EADDRNOTAVAIL, f"calls are at {only} only, not at {host}")
        if ports is None:
            return None
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            bound.setblocking(False)
            first = random.randrange(len(ports))
            for port in (*ports[first:], *ports[:first]):
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


def is_here(address: str) -> bool:
    """Whether aioice finds that address on this machine."""
    wanted = ipaddress.ip_address(address)
    return any(ipaddress.ip_address(found) == wanted for found in get_host_addresses(True, True))


_active: ContextVar[Sockets | None] = ContextVar("sockets of a call", default=None)


def _patch(loop: asyncio.AbstractEventLoop) -> None:
    if hasattr(loop, _PATCHED):
        return
    original = loop.create_datagram_endpoint

    async def create(factory: Any, local_addr: Any = None, **options: Any) -> Any:
        active = _active.get()
        if active is None or local_addr is None or local_addr[1] != 0:
            return await original(factory, local_addr=local_addr, **options)
        bound = active.socket(local_addr[0])
        if bound is None:
            return await original(factory, local_addr=local_addr, **options)
        try:
            return await original(factory, sock=bound, **options)
        except BaseException:
            bound.close()
            raise

    loop.create_datagram_endpoint = create  # type: ignore[method-assign,assignment]
    setattr(loop, _PATCHED, True)
