"""Opus: what the options say is what the packets are."""

from fractions import Fraction

import numpy as np
import pytest
from aiortc.jitterbuffer import JitterFrame
from aiortc.sdp import SessionDescription
from av import AudioFrame

from percepnet.framing import Float
from server.media import opus
from server.media.audiolevel import audio_level_dbov
from server.media.opus import OpusDecoder, OpusEncoder, OpusOptions, Pauses

PACKET = 960
SDP = """v=0\r
o=- 1 2 IN IP4 0.0.0.0\r
s=-\r
t=0 0\r
m=audio 9 UDP/TLS/RTP/SAVPF 111 0\r
c=IN IP4 0.0.0.0\r
a=mid:0\r
a=sendrecv\r
a=rtcp-mux\r
a=rtpmap:111 opus/48000/2\r
a=fmtp:111 minptime=10;useinbandfec=1\r
a=rtpmap:0 PCMU/8000\r
"""


def frame(pcm: Float, time: int, layout: str = "mono") -> AudioFrame:
    samples = (pcm * 32768).astype(np.int16).repeat(2 if layout == "stereo" else 1)
    result = AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout=layout)
    result.sample_rate, result.time_base, result.pts = 48_000, Fraction(1, 48_000), time
    return result


def encoded(options: OpusOptions, pcm: Float) -> list[list[bytes]]:
    encoder, result = OpusEncoder(options), []
    for start in range(0, len(pcm) - PACKET + 1, PACKET):
        sent = frame(pcm[start : start + PACKET], start, "stereo" if options.stereo else "mono")
        payloads, time = encoder.encode(sent, audio_level_dbov(sent))
        assert time == start
        result.append(payloads)
    return result


def bitrate(packets: list[list[bytes]]) -> float:
    return float(np.mean([8 * len(payload) for (payload,) in packets]) * 50)


@pytest.mark.parametrize("stereo", [False, True])
@pytest.mark.parametrize("wanted", [24_000, 64_000])
def test_packets_have_the_channels_and_the_rate_asked_for(clean: Float, wanted: int, stereo: bool) -> None:
    packets = encoded(OpusOptions(bitrate=wanted, stereo=stereo), clean[:144_000])
    assert {len(payloads) for payloads in packets} == {1}
    # silence is mono, RFC 6716, 3.1
    assert {bool(payload[0] & 4) for (payload,) in packets} <= {stereo, False}
    assert any(bool(payload[0] & 4) is stereo for (payload,) in packets)
    assert wanted / 2 < bitrate(packets) < wanted * 1.1


def test_what_comes_out_of_a_decoder_is_what_went_in(clean: Float) -> None:
    pcm = clean[48_000:96_000]
    decoder, heard = OpusDecoder(), []
    for n, (payload,) in enumerate(encoded(OpusOptions(), pcm)):
        (decoded,) = decoder.decode(JitterFrame(payload, n * PACKET))
        assert (decoded.pts, decoded.layout.name, decoded.samples) == (n * PACKET, "mono", PACKET)
        heard.append(decoded.to_ndarray()[0] / 32768)
    error = np.concatenate(heard)[opus.LOOKAHEAD :] - pcm[: -opus.LOOKAHEAD]
    assert np.mean(error**2) < np.mean(pcm**2) / 10


def test_stereo_is_decoded_to_the_mean_of_its_channels(clean: Float) -> None:
    pcm = clean[48_000:96_000]
    decoders = OpusDecoder(), OpusDecoder()
    levels = []
    for decoder, stereo in zip(decoders, (False, True), strict=True):
        heard = []
        for (payload,) in encoded(OpusOptions(bitrate=128_000, stereo=stereo), pcm):
            heard.append(decoder.decode(JitterFrame(payload, 0))[0].to_ndarray()[0].astype(float))
        levels.append(np.std(np.concatenate(heard)))
    assert levels[1] == pytest.approx(levels[0], rel=0.05)


def test_a_gap_in_time_is_a_gap_in_time(clean: Float) -> None:
    encoder = OpusEncoder(OpusOptions())
    times = [0, 960, 960 + 48_000, 960 + 48_960]
    assert [encoder.encode(frame(clean[:PACKET], time), 0)[1] for time in times] == times


def test_fec_repeats_in_speech_coding(clean: Float) -> None:
    def repeating(options: OpusOptions) -> int:
        # SILK and hybrid are the modes below 16; the second flag tells of redundancy (RFC 6716, 4.2.3)
        packets = [payload for (payload,) in encoded(options, clean[:144_000])]
        return sum(payload[0] >> 3 < 16 and bool(payload[1] & 0x40) for payload in packets)

    assert repeating(OpusOptions(bitrate=32_000, fec=True)) > 30
    assert repeating(OpusOptions(bitrate=32_000)) == 0


def test_a_pause_is_not_sent_and_speech_is_at_once(clean: Float) -> None:
    speech, pause = clean[48_000:67_200], np.zeros(60 * PACKET, np.float32)
    packets = encoded(OpusOptions(dtx=True), np.concatenate([speech, pause, speech]))
    sizes = [sum(map(len, payloads)) for payloads in packets]
    assert min(sizes[:20] + sizes[80:]) > 1
    quiet = sizes[20:80]
    assert min(quiet[: Pauses.HANGOVER]) > 1
    after = quiet[Pauses.HANGOVER :]
    real = [n + 1 for n, size in enumerate(after) if size > 1]
    assert real == [Pauses.LONGEST, 2 * Pauses.LONGEST]
    assert [n for n, size in enumerate(after) if size == 1] == [0, *real]
    decoder = OpusDecoder()
    for payloads in packets:
        for payload in payloads:
            (decoded,) = decoder.decode(JitterFrame(payload, 0))
            assert decoded.samples == PACKET


def test_without_dtx_a_pause_is_sent() -> None:
    assert all(encoded(OpusOptions(), np.zeros(30 * PACKET, np.float32)))


ALL = OpusOptions(bitrate=64_000, stereo=True, fec=True, dtx=True)
BASE = {"bitrate": 64_000, "stereo": False, "fec": False, "dtx": True}


@pytest.mark.parametrize(
    ("offered", "wanted"),
    [
        ({}, {}),
        ({"maxaveragebitrate": 20_000}, {"bitrate": 20_000}),
        ({"maxaveragebitrate": 500_000}, {}),
        ({"maxaveragebitrate": 1}, {"bitrate": 6_000}),
        ({"stereo": 1}, {"stereo": True}),
        ({"stereo": 0, "sprop-stereo": 1}, {}),
        ({"useinbandfec": 1}, {"fec": True}),
        ({"usedtx": 0}, {"dtx": False}),
        ({"usedtx": 1}, {}),
    ],
)
def test_a_peer_gets_no_more_than_its_offer_asks_for(offered: dict[str, int], wanted: dict[str, int]) -> None:
    assert ALL.for_peer(offered) == OpusOptions(**{**BASE, **wanted})  # type: ignore[arg-type]
    assert not OpusOptions().for_peer({"stereo": 1, "useinbandfec": 1, "usedtx": 1}).stereo


def test_descriptions_are_read_and_written() -> None:
    assert opus.offered(SessionDescription.parse(SDP)) == {"minptime": 10, "useinbandfec": 1}
    assert opus.offered(SessionDescription.parse(SDP.replace("opus", "other"))) == {}
    for text, wanted in (
        (
            "maxaveragebitrate=20000; usedtx=1;stereo=0",
            {"maxaveragebitrate": 20_000, "usedtx": 1, "stereo": 0},
        ),
        ("maxaveragebitrate=much;usedtx;x=-1;y=" + "9" * 5000, {}),
    ):
        sdp = SDP.replace("minptime=10;useinbandfec=1", text)
        assert opus.offered(SessionDescription.parse(sdp)) == wanted
    options = OpusOptions(bitrate=24_000, fec=True)
    written = opus.described(SDP, options.fmtp(sent=options))
    asked = "maxaveragebitrate=24000;stereo=0;sprop-stereo=0;useinbandfec=1;usedtx=0"
    assert f"a=fmtp:111 {asked}" in written.splitlines()
    plain = str(SessionDescription.parse(SDP)).splitlines()
    assert [line for line in written.splitlines() if "fmtp" not in line] == [
        line for line in plain if "fmtp" not in line
    ]
