"""The address that callers reach, in an answer that has the host's own (1:1 NAT, as at most cloud providers)."""

import ipaddress
import re
from typing import Final

HOST_CANDIDATE: Final = re.compile(r"^(a=candidate:\S+ \d+ \S+ \d+ )(\S+)( \d+ typ host\b)", re.MULTILINE)
CONNECTION: Final = re.compile(r"^(c=IN IP[46] )(\S+)", re.MULTILINE)


def advertised(sdp: str, address: str) -> str:
    """``sdp`` with ``address`` in the candidates of the host itself that are of its version of IP."""
    version = ipaddress.ip_address(address).version
    own = {
        match[2]
        for match in HOST_CANDIDATE.finditer(sdp)
        if ipaddress.ip_address(match[2]).version == version
    }

    def replaced(match: re.Match[str]) -> str:
        before, found, *after = match.groups()
        return "".join((before, address if found in own else found, *after))

    return CONNECTION.sub(replaced, HOST_CANDIDATE.sub(replaced, sdp))
