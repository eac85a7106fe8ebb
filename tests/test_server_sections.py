"""Offers with what aiortc cannot read; with video, of which each section has one in the answer, in order."""

import re
from itertools import permutations

import pytest
from aiortc.sdp import SessionDescription
from fuzz_offers import OFFERS

from server.offer import Direction, Offer
from server.sections import MOST, bundled_as, refused, without_refused

HEAD = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
TRANSPORT = "c=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\na=rtcp-mux\r\n"
SECTIONS = {
    "audio": "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\n",
    "video": "m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\n"
    "a=rtcp-fb:96 nack\r\na=rtcp-rsize\r\n",
    "application": "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n",
}


def description(kinds: list[str], bundled: bool) -> str:
    mids = [f"{kind}{n}" for n, kind in enumerate(kinds)]
    group = f"a=group:BUNDLE {' '.join(mids)}\r\n" if bundled else ""
    sections = (f"{SECTIONS[kind]}{TRANSPORT}a=mid:{mid}\r\n" for kind, mid in zip(kinds, mids, strict=True))
    return "".join([HEAD, group, *sections])


def test_nothing_is_bundled_that_the_offer_does_not_bundle() -> None:
    kinds = ["audio", "application"]
    answer, apart = description(kinds, bundled=True), description(kinds, bundled=False)
    assert bundled_as(answer, answer) == answer
    assert bundled_as(answer, apart) == apart
    assert "a=group:BUNDLE audio0\r\n" in bundled_as(answer, answer.replace(" application1", "", 1))


@pytest.mark.parametrize("bundled", [True, False])
def test_video_is_refused_in_its_place(bundled: bool) -> None:
    for kinds in {
        *permutations(["audio", "video", "video", "application"]),
        *permutations(["audio", "video"]),
    }:
        offer = description(list(kinds), bundled)
        rest, videos = without_refused(offer)
        assert "rtcp-fb" not in rest
        offered = SessionDescription.parse(offer)
        kept = [media.rtp.muxId for media in offered.media if media.kind != "video"]
        assert [media.rtp.muxId for media in SessionDescription.parse(rest).media] == kept

        answer = SessionDescription.parse(refused(rest.replace(" 9 ", " 5000 "), videos))
        assert [m.rtp.muxId for m in answer.media] == [m.rtp.muxId for m in offered.media]
        assert [m.kind for m in answer.media] == list(kinds)
        carries = bundled and kinds[0] == "video"
        taken = [media for media in answer.media if media.port != 0]
        assert [m.rtp.muxId for m in taken] == ([offered.media[0].rtp.muxId] if carries else []) + kept
        assert all(m.direction == "inactive" for m in answer.media if m.kind == "video")
        if bundled:
            assert answer.group[0].items == [m.rtp.muxId for m in taken]
        if carries:  # with all that the transport is
            audio = next(m for m in answer.media if m.kind == "audio")
            assert answer.media[0].ice == audio.ice
            assert answer.media[0].port == audio.port


def test_what_heads_a_bundle_carries_it() -> None:
    """The others may come without a transport of their own, or with one that is not used (RFC 9143)."""
    other = TRANSPORT.replace("abcd", "wxyz")
    for own, port in (("", "0"), (other, "9")):
        audio = SECTIONS["audio"].replace(" 9 ", f" {port} ")
        offer = (
            f"{HEAD}a=group:BUNDLE v a\r\n{SECTIONS['video']}{TRANSPORT}a=mid:v\r\n{audio}{own}a=mid:a\r\n"
        )
        (media,) = SessionDescription.parse(without_refused(offer)[0]).media
        assert media.ice is not None
        assert (media.port, media.ice.usernameFragment, media.rtcp_mux) == (9, "abcd", True)
    alone = offer.replace("BUNDLE v a", "BUNDLE v")
    rest, (video,) = without_refused(alone)
    assert "BUNDLE" not in rest
    assert "wxyz" in rest
    assert not video.carries


@pytest.mark.parametrize(
    "rejected",
    [
        "m=audio 0 UDP/TLS/RTP/SAVPF 0",
        "m=application 0 UDP/DTLS/SCTP webrtc-datachannel",
        "m=text 0 UDP/TLS/RTP/SAVPF 98",
    ],
)
@pytest.mark.parametrize("before", ["m=audio", "m=application"])
def test_what_an_offer_has_no_port_for_is_refused(rejected: str, before: str) -> None:
    sdp = OFFERS[0].replace(before, f"{rejected}\r\na=mid:gone\r\n{before}", 1)
    offer = Offer.of_sdp(sdp, {})
    assert [media.kind for media in SessionDescription.parse(offer.sdp).media] == ["audio", "application"]
    answer = refused(offer.sdp, offer.others)
    mids = [media.rtp.muxId for media in SessionDescription.parse(answer).media]
    assert mids == [media.rtp.muxId for media in SessionDescription.parse(sdp).media]
    assert rejected in answer


def test_what_is_only_in_a_bundle_has_a_port_of_0_and_is_taken() -> None:
    sdp = OFFERS[1].replace("m=application 9", "m=application 0").replace("a=sctp", "a=bundle-only\r\na=sctp")
    assert "m=application 0" in sdp
    assert without_refused(sdp) == (sdp, ())


@pytest.mark.parametrize("kinds", list(permutations(["audio", "video", "application"])))
def test_in_a_bundle_one_section_has_the_transport_of_all(kinds: tuple[str, ...]) -> None:
    """As browsers write it that are told to bundle all they can (RFC 8829, 5.2.1)."""
    keys = f"a=setup:actpass\r\na=fingerprint:sha-256 {':'.join(['AB'] * 32)}\r\n"
    head, *sections = re.split("(?=m=)", description(list(kinds), bundled=True))
    first, *rest = (f"{section}{keys}" for section in sections)
    sctp = "a=sctp-port:5000\r\n"
    first = first.replace(SECTIONS["application"], SECTIONS["application"] + sctp)
    bare = [
        re.sub(" 9 ", " 0 ", re.sub("a=(ice|setup|finger|rtcp-mux).*\r\n", "", section), count=1)
        + "a=bundle-only\r\n"
        + (sctp if "m=application" in section else "")
        for section in rest
    ]
    offer = Offer.of_sdp("".join([head, first, *bare]), {})
    found = SessionDescription.parse(offer.sdp).media
    assert [media.kind for media in found] == [kind for kind in kinds if kind != "video"]
    assert {media.ice.usernameFragment for media in found if media.ice} == {"abcd"}
    assert {media.dtls.role for media in found if media.dtls} == {"auto"}


@pytest.mark.parametrize("head", ["audio", "video"])
def test_only_what_a_transport_has_is_repeated_in_all_of_a_bundle(head: str) -> None:
    """Any 2000 other lines, in each of 14 sections, would take a second to parse."""
    kinds = [head, *["application"] * 14]
    offer = description(kinds, bundled=True).replace("a=ice-", "a=ice-strange:\r\na=ice-", 1)
    first, *rest = offer.split("m=application")
    bare = "m=application".join([first, *(re.sub("a=ice-.*\r\n", "", section) for section in rest)])
    joined, _ = without_refused(bare)
    assert joined.count("a=ice-ufrag:") == 14 + (head == "audio")
    assert joined.count("a=ice-strange:") == (head == "audio")


def test_mids_are_no_patterns() -> None:
    offer = description(["video", "audio"], bundled=True).replace("audio1", r"\g<9>\9")
    rest, videos = without_refused(offer)
    assert r"a=group:BUNDLE \g<9>\9" in rest
    assert r"a=group:BUNDLE video0 \g<9>\9" in refused(rest, videos)


def test_what_has_no_video_stays_as_it_is() -> None:
    offer = description(["audio", "application"], bundled=True)
    assert without_refused(offer) == (offer, ())
    assert refused(offer, ()) == offer


def test_too_many_sections_are_counted() -> None:
    with pytest.raises(ValueError, match=f"{MOST} sections, not {MOST + 1}"):
        without_refused(description(["video"] * (MOST + 1), bundled=False))


@pytest.mark.parametrize(
    ("line", "legal"),
    [
        ("a=rtcp-mux", "a=rtcp-mux\r\na=extmap:14 urn:ietf:params:rtp-hdrext:ssrc-audio-level vad=on"),
        ("a=rtcp-mux", "a=rtcp-mux\r\na=extmap:14/sendonly urn:example:x  a b"),
        ("a=rtcp-mux", "a=rtcp-mux\r\na=ssrc:77 foo"),
        ("a=rtcp-mux", "a=rtcp-mux\r\na=fmtp:18 annexb=no"),
        ("c=IN IP4 ", "c=IN IP4 host.example\r\na=x-was:"),
        ("a=rtcp:9 IN IP4 0.0.0.0", "a=rtcp:9 IN IP4 host.example"),
    ],
)
@pytest.mark.parametrize("direction", ["sendrecv", "sendonly", "recvonly"])
def test_legal_lines_that_aiortc_cannot_read_are_passed_over(
    line: str, legal: str, direction: Direction
) -> None:
    for sdp in OFFERS:
        if line in sdp:
            plain, offer = (Offer.of_sdp(text, {}, direction) for text in (sdp, sdp.replace(line, legal)))
            (audio,) = (media for media in SessionDescription.parse(offer.sdp).media if media.kind == "audio")
            (as_before,) = (
                media for media in SessionDescription.parse(plain.sdp).media if media.kind == "audio"
            )
            assert audio.rtp.codecs == as_before.rtp.codecs
            assert audio.ice == as_before.ice
            assert offer.opus == plain.opus
            break
    else:
        raise AssertionError(f"no offer has {line}")


@pytest.mark.parametrize(
    ("number", "taken"), [(14, True), (255, True), (0, False), (256, False), (4096, False)]
)
def test_extensions_are_taken_whose_numbers_packets_can_have(number: int, taken: bool) -> None:
    for sdp in OFFERS[:2]:
        offer = Offer.of_sdp(sdp.replace("a=extmap:1 ", f"a=extmap:{number} "), {})
        (audio,) = (media for media in SessionDescription.parse(offer.sdp).media if media.kind == "audio")
        found = [extension.id for extension in audio.rtp.headerExtensions]
        assert (number in found) is taken
        assert 2 in found
