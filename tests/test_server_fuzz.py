"""Hostile input at random, some of it: ``python tests/fuzz.py`` has as much as anybody wants."""

import logging
import random
from collections.abc import Iterator

import pytest
from fuzz import datagrams, offers
from fuzz_datagrams import TOCS, opus, rtp
from fuzz_offers import OFFERS, hostile

from server.offer import LONGEST_SDP, Offer, OfferError


@pytest.fixture(autouse=True)
def unlogged() -> Iterator[None]:
    """pytest keeps what is logged, and with it all that tracebacks hold."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


async def test_bad_offers_are_refused_with_reasons_and_leave_nothing() -> None:
    found = await offers(400, seed=1)
    statuses = found["statuses"]
    assert isinstance(statuses, dict)
    assert sum(statuses.values()) == 400
    assert statuses[400] > 100
    assert statuses[201] > 20  # changes that do no harm, so that what comes after the checks is met, too
    assert found["reasons"] > 20  # type: ignore[operator]


async def test_no_datagram_ends_or_harms_a_call_or_leaves_anything() -> None:
    found = await datagrams(1500, seed=1)
    assert found["at_hand"]["faults"] == 0  # type: ignore[index]
    assert found["rogue"]["undecodable"] > 0  # type: ignore[index]


def test_the_same_seed_is_the_same_attack() -> None:
    assert [hostile(random.Random(f"1 {n}")) for n in range(50)] == [
        hostile(random.Random(f"1 {n}")) for n in range(50)
    ]
    packets = [rtp(random.Random(n), opus(random.Random(n), TOCS[n]), n, 1) for n in range(256)]
    assert packets == [rtp(random.Random(n), opus(random.Random(n), TOCS[n]), n, 1) for n in range(256)]


@pytest.mark.parametrize("sdp", OFFERS)
def test_what_is_changed_are_real_offers(sdp: str) -> None:
    offer = Offer.checked({"sdp": sdp, "type": "offer"})
    assert "m=audio" in offer.sdp
    assert "m=application" in offer.sdp


@pytest.mark.parametrize("ending", ["\r\n", "\r", "\n", "\x0b", "\u2028"])
def test_an_offer_of_the_allowed_length_cannot_keep_the_server_busy(ending: str) -> None:
    """Codecs and feedback for all of them, which aiortc's parser takes each with each."""
    many = f"a=rtpmap:96 opus/48000/2{ending}" * 400 + f"a=rtcp-fb:* a{ending}" * 1000
    sdp = OFFERS[0].replace("a=rtpmap:9 ", many + "a=rtpmap:9 ")
    assert len(sdp) < LONGEST_SDP
    with pytest.raises(OfferError, match="at most 64 lines a=rtpmap, not 40"):
        Offer.checked({"sdp": sdp, "type": "offer"})


def test_nothing_of_an_offer_becomes_a_long_pattern() -> None:
    """One of 29 thousand digits takes a tenth of a second to compile."""
    video = f"m=video 9 UDP/TLS/RTP/SAVPF {'1' * 29_000}\r\na=mid:video\r\n"
    with pytest.raises(OfferError):
        Offer.checked({"sdp": OFFERS[0] + video, "type": "offer"})
