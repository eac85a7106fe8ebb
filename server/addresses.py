"""Which address a request comes from, and what one address may have: calls at hand, offers a second."""

import ipaddress
import math
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from .access import is_loopback
from .allowance import Allowance
from .values import Network

FORWARDED: Final = "X-Forwarded-For"
BURST: Final = 4.0  # s worth of offers that may come at once
MOST_REMEMBERED: Final = 4096  # addresses
WITH_PORT: Final = re.compile(r"(?:\[([^\]]+)\]|([0-9.]+))(?::[0-9]+)?")
HOME: Final = 64  # bits of an IPv6 address that one caller has at least, with all below


class TooMany(Exception):
    """An address asks for more than it may have; in ``retry_after`` s it may."""

    def __init__(self, text: str, retry_after: int) -> None:
        super().__init__(text)
        self.retry_after = retry_after


def caller_of(request: web.Request, trusted: Collection[Network]) -> str:
    """The address that a request comes from; for IPv6, the network of its caller. "" for a unix socket.

    Where it comes from a trusted proxy it is what that has forwarded: the last address that is none of the
    trusted, because all before it the caller may have written.
    """
    hops = [hop.strip() for value in request.headers.getall(FORWARDED, []) for hop in value.split(",")]
    found = _parsed(request.remote or "")
    while found is not None and hops and any(found in network for network in trusted):
        forwarded = _parsed(hops.pop())
        if forwarded is None:  # no address: the proxy answers for it
            break
        found = forwarded
    if isinstance(found, ipaddress.IPv6Address) and not found.is_loopback:
        return str(ipaddress.ip_network((found, HOME), strict=False))
    return "" if found is None else str(found)


def forwards_untrusted(request: web.Request, trusted: Collection[Network]) -> bool:
    """Whether a proxy says whom it forwards, and is not believed."""
    remote = _parsed(request.remote or "")
    return FORWARDED in request.headers and not any(
        remote in network for network in trusted if remote is not None
    )


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address, which some proxies write with brackets and a port; None for anything else."""
    if with_port := WITH_PORT.fullmatch(text):
        text = with_port[1] or with_port[2]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


class AddressLimits:
    """``most_calls`` calls at hand and ``per_second`` offers of an address; loopback has no limits.

    ``calls_of`` tells how many calls an address has.
    """

    def __init__(self, most_calls: int, per_second: float, calls_of: Callable[[str], int]) -> None:
        self.most_calls = most_calls
        self.per_second = per_second
        self._calls_of = calls_of
        self._opening: Counter[str] = Counter()
        self._allowances: OrderedDict[str, Allowance] = OrderedDict()  # those asked for last at the end

    @contextmanager
    def admitted(self, address: str) -> Iterator[None]:
        """Around the answering of an offer; raises :class:`TooMany`."""
        if not address or is_loopback(address):
            yield
            return
        allowance = self._allowance(address)
        if not allowance.take(time.monotonic()):
            raise TooMany(
                f"an address may make {self.per_second:g} offers a second", math.ceil(allowance.wait)
            )
        if self._calls_of(address) + self._opening[address] >= self.most_calls:
            raise TooMany(f"an address may have {self.most_calls} calls at a time", 5)
        self._opening[address] += 1
        try:
            yield
        finally:
            self._opening[address] -= 1
            if not self._opening[address]:
                del self._opening[address]

    def _allowance(self, address: str) -> Allowance:
        """Of offers."""
        found = self._allowances.pop(address, None) or Allowance(self.per_second, BURST)
        self._allowances[address] = found
        if len(self._allowances) > MOST_REMEMBERED:
            self._allowances.popitem(last=False)
        return found
