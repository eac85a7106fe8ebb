"""How the audio of real calls is encoded, both ways: what offer and answer say, and what the packets have."""

import re
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiortc import RTCRtpSender
from aiortc.sdp import SessionDescription
from caller import Caller
from calling import Server, level_db, offered, packets, serving

from percepnet.framing import Pcm
from server.media import receiver, sender


class Asking:
    """A caller whose offer has these ``a=fmtp`` parameters of Opus; keeps the answer's, and packets that come."""

    def __init__(self, server: Server, pcm: Pcm, monkeypatch: pytest.MonkeyPatch, parameters: str) -> None:
        self.caller = Caller(server.url, pcm)
        self.packets: list[bytes] = []
        self.answered = ""
        (transceiver,) = self.caller.connection.getTransceivers()
        handle = transceiver.receiver._handle_rtp_packet
        post = aiohttp.ClientSession.post

        async def noted(packet: Any, arrival_time_ms: int) -> None:
            self.packets.append(packet.payload)
            await handle(packet, arrival_time_ms=arrival_time_ms)

        def asking(session: aiohttp.ClientSession, url: str, *, json: dict[str, Any]) -> Any:
            line = f"\\g<0>a=fmtp:96 {parameters}\r\n" if parameters else "\\g<0>"
            return post(session, url, json={**json, "sdp": re.sub("a=rtpmap:96 .*\r\n", line, json["sdp"])})

        transceiver.receiver._handle_rtp_packet = noted  # type: ignore[method-assign]
        monkeypatch.setattr(aiohttp.ClientSession, "post", asking)

    async def talk(self, count: int) -> None:
        async with self.caller as caller:
            await packets(caller, count)
            session = SessionDescription.parse(caller.connection.remoteDescription.sdp)
        self.answered = next(str(media) for media in session.media if media.kind == "audio")

    @property
    def bitrate(self) -> float:
        return float(np.mean([8 * len(payload) for payload in self.packets]) * 50)

    @property
    def stereo(self) -> set[bool]:
        return {bool(payload[0] & 4) for payload in self.packets}  # RFC 6716, 3.1

    @property
    def with_fec(self) -> int:
        # Below mode 16 is SILK; after its header of VAD flags comes that of redundancy (RFC 6716, 4.2.3)
        return sum(bool(payload[1] & 0x40) for payload in self.packets if payload[0] >> 3 < 16)


OPUS_CALLS = [
    ({}, "", "maxaveragebitrate=64000;stereo=0;sprop-stereo=0;useinbandfec=1;usedtx=0"),
    (
        {"opus_bitrate": 96000, "opus_stereo": True, "opus_fec": True, "opus_dtx": True},
        "maxaveragebitrate=24000;stereo=0;useinbandfec=1",
        "maxaveragebitrate=96000;stereo=1;sprop-stereo=0;useinbandfec=1;usedtx=1",
    ),
    (
        {"opus_stereo": True, "opus_fec": True},
        "stereo=1",
        "maxaveragebitrate=64000;stereo=1;sprop-stereo=1;useinbandfec=1;usedtx=0",
    ),
]


@pytest.mark.parametrize(("options", "offered", "answered"), OPUS_CALLS)
async def test_the_answer_has_the_options_of_opus_and_the_packets_have_what_the_offer_lets_them(
    speech: Pcm, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], offered: str, answered: str
) -> None:
    async with serving(**options) as server:
        call = Asking(server, speech, monkeypatch, offered)
        await call.talk(100)
    assert f"a=fmtp:96 {answered}" in call.answered
    assert call.stereo == {"sprop-stereo=1" in answered}
    assert call.bitrate < (26_000 if "maxaveragebitrate" in offered else 68_000)
    assert bool(call.with_fec) is ("useinbandfec=1" in offered)


async def test_a_call_works_with_all_that_aiortc_has_of_its_own(
    speech: Pcm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sender, "_RESULT", "Elsewhere")
    monkeypatch.setattr(receiver, "_WORKER", "elsewhere")
    async with serving() as server:
        call = Asking(server, speech, monkeypatch, "")
        await call.talk(50)
        heard = call.caller.heard()
    assert "options of Opus have no effect" in caplog.text
    assert "elsewhere" in caplog.text
    assert "a=fmtp" not in call.answered
    assert call.stereo == {True}
    assert level_db(heard) > -50


@pytest.mark.parametrize(
    ("formats", "lines", "answered"),
    [
        ("35 9", "a=rtpmap:35 opus/48000/2\r\na=rtpmap:9 G722/8000\r\n", [35, 9]),
        ("0", "a=rtpmap:96 opus/48000/2\r\na=rtpmap:0 PCMU/8000\r\n", [0]),
        ("8 96", "a=rtpmap:96 opus/48000/2\r\n", [8, 96]),
        ("96 8 96", "a=rtpmap:8 PCMA/8000\r\na=rtpmap:96 opus/48000/2\r\n", [96, 8]),
    ],
)
async def test_the_answer_has_the_formats_of_the_offer_and_no_others(
    formats: str, lines: str, answered: list[int]
) -> None:
    """By the types that the caller gives them: it does not understand others, and would hear nothing."""
    offer = await offered()
    plain = re.sub("a=(rtpmap|fmtp|rtcp-fb):.*\r\n", "", offer["sdp"])
    sdp = re.sub("(m=audio .* UDP/TLS/RTP/SAVPF) .*\r\n", f"\\1 {formats}\r\n", plain) + lines
    async with serving() as server, server.http.post("/offer", json={**offer, "sdp": sdp}) as answer:
        (audio,) = SessionDescription.parse((await answer.json())["sdp"]).media
    assert audio.fmt == answered
    assert [codec.payloadType for codec in audio.rtp.codecs] == answered


@pytest.mark.parametrize("codec", ["audio/G722", "audio/PCMU", "audio/PCMA"])
async def test_a_caller_without_opus_is_heard(speech: Pcm, codec: str) -> None:
    async with serving() as server:
        caller = Caller(server.url, speech, {"enabled": False})
        (transceiver,) = caller.connection.getTransceivers()
        capabilities = RTCRtpSender.getCapabilities("audio").codecs
        transceiver.setCodecPreferences([one for one in capabilities if one.mimeType == codec])
        async with caller:
            await packets(caller, 75)
            heard = caller.heard()
    assert len(set(np.diff([pts for pts, _ in caller.frames]))) == 1
    assert level_db(heard[len(heard) // 3 :]) == pytest.approx(level_db(speech[24_000:72_000]), abs=3)
