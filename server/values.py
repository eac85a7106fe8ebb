"""How the texts of the server's options are read; each error names the value and what is allowed."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self, TypeAlias
from urllib.parse import unquote

from yarl import URL

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

ORIGIN: Final = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d{1,5})?")  # RFC 6454, 6.2

PLACE: Final = re.compile(r"([^\s?:\[\]]+)(?::(\d{1,5}))?(?:\?transport=(udp|tcp))?")  # of an ICE server


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server. Written ``stun:host:port`` or ``turn:user:password@host:port``.

    As aiortc reads them: no addresses of IPv6, for which a name has to stand, and ``?transport=`` with TURN only.
    """

    url: str
    username: str | None = None
    credential: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        scheme, _, rest = text.partition(":")
        account, at, host = rest.rpartition("@")
        if scheme not in ("stun", "turn", "turns") or not host:
            # Not the text, which may hold a password: errors are shown and logged.
            shown = f"{scheme}:…" if at else repr(text)
            raise ValueError(f"ICE server must be stun:HOST or turn:USER:PASSWORD@HOST, not {shown}")
        found = PLACE.fullmatch(host)
        if found is None or not 0 < int(found[2] or 1) < 65536 or (found[3] and scheme == "stun"):
            shown = repr(host) if scheme == "stun" else "what it says"  # which may be a password in part
            raise ValueError(
                f"ICE server must be at HOST or HOST:PORT (with TURN then perhaps ?transport=udp or tcp), "
                f"HOST a name or IPv4 address, PORT 1…65535, not at {shown}"
            )
        if not at:
            return cls(text)
        username, _, credential = map(unquote, account.partition(":"))
        if not (username + credential).isprintable():  # they go into headers
            raise ValueError("ICE server must be one whose user and password hold no control characters")
        return cls(f"{scheme}:{host}", username, credential)


def number(low: float, high: float, whole: bool = False) -> Callable[[str], float]:
    """A converter that allows ``low`` to ``high``."""

    def parse(text: str) -> float:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            raise ValueError(f"must be a {'whole ' if whole else ''}number, not {text!r}") from None
        if not low <= value <= high:
            raise ValueError(f"must be {low:g}…{high:g}, not {text}")
        return value

    return parse


def one_of(*words: str) -> Callable[[str], str]:
    """A converter that allows ``words``."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be {', '.join(words[:-1])} or {words[-1]}, not {text!r}")
        return text

    return parse


def switch(text: str) -> bool:
    return one_of("on", "off")(text) == "on"


def origin(text: str) -> str:
    """As a browser writes it, without a path: ``https://example.org`` or ``http://localhost:3000``."""
    try:
        # A port that goes without saying is never said, and what names it would never be met.
        if ORIGIN.fullmatch(text) and str(URL(text).origin()) == text:
            return text
    except ValueError:  # a port above all
        pass
    raise ValueError(f"an origin must be like https://example.org or http://localhost:3000, not {text!r}")


def url(text: str) -> str:
    """An address of the web, http or https."""
    try:
        if re.fullmatch(r"https?://[^\s/]+\S*", text) and URL(text).host:
            return text
    except ValueError:
        pass
    raise ValueError(f"must be a URL like https://example.org/whip/{{room}}, not {text!r}")


def address(text: str) -> str:
    """An IP address in its shortest form."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"must be an IPv4 or IPv6 address, not {text!r}") from None


def network(text: str) -> Network:
    """An IP address, or a network such as ``10.0.0.0/8``."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"must be an IP address or a network like 10.0.0.0/8, not {text!r}") from None


def ports(text: str) -> range:
    """``LOW-HIGH``, both included."""
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
    low, high = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < low <= high < 65536:
        raise ValueError(f"must be LOW-HIGH with ports 1…65535, such as 40000-40999, not {text!r}")
    return range(low, high + 1)
