"""Callers' addresses: which is whose, and what one may have."""

import ipaddress
from collections import Counter

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from server import addresses
from server.addresses import BURST, AddressLimits, TooMany, caller_of

TRUSTED = (ipaddress.ip_network("127.0.0.1"), ipaddress.ip_network("10.0.0.0/8"))


@pytest.mark.parametrize(
    ("remote", "forwarded", "caller"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # anybody can write that
        ("127.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("127.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ("127.0.0.1", ["203.0.113.9, 198.51.100.7, 10.1.2.3"], "198.51.100.7"),
        ("127.0.0.1", ["203.0.113.9", "198.51.100.7"], "198.51.100.7"),
        ("::ffff:127.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("127.0.0.1", ["203.0.113.9:80, 198.51.100.7:4711"], "198.51.100.7"),
        ("127.0.0.1", ["[2001:db8:1:2:3:4:5:6]:4711"], "2001:db8:1:2::/64"),
        ("127.0.0.1", ["unknown"], "127.0.0.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::/64"),
        ("::1", [], "::1"),
        (None, ["198.51.100.7"], ""),
    ],
)
def test_a_forwarded_address_is_believed_of_trusted_proxies_only(
    remote: str | None, forwarded: list[str], caller: str
) -> None:
    headers = CIMultiDict(("X-Forwarded-For", value) for value in forwarded)
    request = make_mocked_request("POST", "/offer", headers=headers).clone(remote=remote or "")
    assert caller_of(request, TRUSTED) == caller


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still."""
    clock = [1000.0]
    monkeypatch.setattr(addresses.time, "monotonic", lambda: clock[0])
    return clock


def offers(limits: AddressLimits, address: str, count: int) -> int:
    """How many of so many offers at once are let in."""
    waits = []
    for _ in range(count):
        try:
            with limits.admitted(address):
                pass
        except TooMany as error:
            waits.append(error.retry_after)
    assert all(wait >= 1 for wait in waits)
    return count - len(waits)


def test_an_address_may_make_some_offers_at_once_and_then_so_many_a_second(now: list[float]) -> None:
    limits = AddressLimits(100, 5.0, lambda _: 0)
    assert offers(limits, "192.0.2.1", 100) == 5 * BURST
    now[0] += 1
    assert offers(limits, "192.0.2.1", 100) == 5
    assert offers(limits, "192.0.2.2", 100) == 5 * BURST
    now[0] += 3600
    assert offers(limits, "192.0.2.1", 100) == 5 * BURST
    assert offers(limits, "127.0.0.1", 1000) == 1000
    assert offers(limits, "", 1000) == 1000


def test_calls_at_hand_and_those_that_are_being_opened_count(now: list[float]) -> None:
    calls = Counter({"192.0.2.1": 2})
    limits = AddressLimits(4, 1000.0, lambda address: calls[address])
    with limits.admitted("192.0.2.1"), limits.admitted("192.0.2.1"):
        with pytest.raises(TooMany, match="4 calls at a time"), limits.admitted("192.0.2.1"):
            pass
        with limits.admitted("192.0.2.2"):
            pass
    with limits.admitted("192.0.2.1"):
        pass
    assert not limits._opening


def test_memory_is_bounded(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "MOST_REMEMBERED", 10)
    limits = AddressLimits(4, 5.0, lambda _: 0)
    for number in range(1000):
        offers(limits, f"198.51.100.{number}", 1)
    assert len(limits._allowances) == 10
    # New ones have limits all the same.
    assert offers(limits, "192.0.2.1", 100) == 5 * BURST


def test_who_goes_on_asking_is_not_forgotten_for_those_who_come_and_go(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "MOST_REMEMBERED", 10)
    limits = AddressLimits(4, 5.0, lambda _: 0)
    taken = 0
    for number in range(100):
        taken += offers(limits, "192.0.2.1", 1)
        offers(limits, f"198.51.100.{number}", 1)
    assert taken == 5 * BURST
