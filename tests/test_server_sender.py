"""Encoding on the event loop, inside aiortc's sender."""

import asyncio
from fractions import Fraction

import aiortc.rtcrtpsender
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCRtpSender
from aiortc.codecs import CODECS
from aiortc.rtcrtpparameters import RTCRtcpParameters, RTCRtpCodecParameters, RTCRtpSendParameters
from aiortc.rtp import HeaderExtensionsMap, RtpPacket, is_rtcp
from av import AudioFrame, Packet, VideoFrame
from calling import until

from server.media import sender
from server.media.opus import Encoded, OpusOptions, encoded

OPUS, G722, PCMU, PCMA = CODECS["audio"]


class Tone(MediaStreamTrack):
    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._time = 0

    async def recv(self) -> AudioFrame | Packet:
        pcm = 16384 * np.sin(2 * np.pi * 1000 / 48_000 * np.arange(960))
        frame = AudioFrame.from_ndarray(pcm.astype(np.int16)[np.newaxis], format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 48_000, Fraction(1, 48_000), self._time
        self._time += 960
        return frame


@pytest.fixture
async def sending() -> RTCRtpSender:
    """A sender that has a track and has not started."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    result = connection.addTrack(Tone())
    await connection.close()
    return result


@pytest.mark.parametrize(("codec", "step"), [(OPUS, 960), (G722, 160), (PCMU, 160), (PCMA, 160)])
async def test_frames_are_encoded_without_a_thread(
    sending: RTCRtpSender, codec: object, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a thread was asked for")

    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse)
    assert sender.install(sending, OpusOptions())
    encoded = [await sending._next_encoded_frame(codec) for _ in range(6)]
    timestamps = [frame.timestamp for frame in encoded if frame is not None]
    assert len(timestamps) >= 5  # one may be under way in a resampler
    assert set(np.diff(timestamps)) == {step}
    for frame in filter(None, encoded):
        assert len(list(frame.payloads)) == 1
        assert frame.audio_level == -9


async def test_a_sender_that_is_turned_off_takes_frames_and_sends_nothing(sending: RTCRtpSender) -> None:
    sender.install(sending, OpusOptions())
    sending._enabled = False
    assert await sending._next_encoded_frame(OPUS) is None
    sending._enabled = True
    assert (await sending._next_encoded_frame(OPUS)).timestamp == 960


async def test_a_track_of_another_kind_is_refused(
    sending: RTCRtpSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def picture(self: Tone) -> VideoFrame:
        return VideoFrame(16, 16)

    monkeypatch.setattr(Tone, "recv", picture)
    sender.install(sending, OpusOptions())
    with pytest.raises(TypeError, match="not VideoFrame"):
        await sending._next_encoded_frame(OPUS)


async def test_what_a_track_gives_encoded_is_sent_as_it_is(
    sending: RTCRtpSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    packets = [encoded(b"opus", 960 * n, -20) for n in range(3)]  # all at once, as they wait for a listener

    async def packet(self: Tone) -> Encoded:
        return packets.pop(0)

    monkeypatch.setattr(Tone, "recv", packet)
    sender.install(sending, OpusOptions())
    for n in range(3):
        frame = await sending._next_encoded_frame(OPUS)
        assert (list(frame.payloads), frame.timestamp, frame.audio_level) == ([b"opus"], 960 * n, -20)


class Wire:
    """Stands for the transport of a sender, and keeps what it sends."""

    state = "connected"
    _stats_id = "wire"

    def __init__(self) -> None:
        self.marked: list[tuple[int, int]] = []  # timestamp and marker bit of each packet

    def _register_rtp_sender(self, *args: object) -> None: ...
    def _unregister_rtp_sender(self, *args: object) -> None: ...

    async def _send_rtp(self, data: bytes) -> None:
        if not is_rtcp(data):
            packet = RtpPacket.parse(data, HeaderExtensionsMap())
            self.marked.append((packet.timestamp, packet.marker))


@pytest.mark.parametrize("codec", [OPUS, G722, PCMU])
async def test_only_what_begins_a_talkspurt_is_marked(
    codec: RTCRtpCodecParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Tone.recv

    async def paused(self: Tone) -> AudioFrame | Packet:
        if self._time == 20 * 960:
            self._time += 50 * 960
        await asyncio.sleep(0)
        return await whole(self)

    monkeypatch.setattr(Tone, "recv", paused)
    wire = Wire()
    rtp = RTCRtpSender(Tone(), wire)
    assert sender.install(rtp, OpusOptions())
    await rtp.send(RTCRtpSendParameters(codecs=[codec], muxId="0", rtcp=RTCRtcpParameters(cname="c", ssrc=1)))
    await until(lambda: len(wire.marked) >= 40, "40 packets")
    await rtp.stop()
    times = np.unwrap([time for time, _ in wire.marked[:40]], period=1 << 32)
    begins = np.flatnonzero([marker for _, marker in wire.marked[:40]]).tolist()
    after_pause = int(np.argmax(np.diff(times))) + 1
    assert begins == [0, after_pause]
    assert after_pause in (19, 20)  # one packet may be under way in a resampler


async def test_packets_within_a_pause_begin_no_talkspurt(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Tone.recv

    async def paused(self: Tone) -> AudioFrame | Packet:
        frame = await whole(self)
        assert isinstance(frame, AudioFrame)
        if 20 <= frame.pts // 960 < 100:
            frame.planes[0].update(bytes(1920))
        await asyncio.sleep(0)
        return frame

    monkeypatch.setattr(Tone, "recv", paused)
    wire = Wire()
    rtp = RTCRtpSender(Tone(), wire)
    assert sender.install(rtp, OpusOptions(dtx=True))
    await rtp.send(RTCRtpSendParameters(codecs=[OPUS], muxId="0", rtcp=RTCRtcpParameters(cname="c", ssrc=1)))
    await until(lambda: len(wire.marked) >= 50, "50 packets")
    await rtp.stop()
    times = np.unwrap([time for time, _ in wire.marked], period=1 << 32)
    marked = (times - times[0])[[bool(marker) for _, marker in wire.marked]] // 960
    assert marked.tolist() == [0, 100]
    assert sum(20 < n < 100 for n in (times - times[0]) // 960) > 10  # of the pause


async def _other_parameters(codec: object, more: object) -> None: ...


class _OtherResult:
    def __init__(self, payloads: list[bytes], timestamp: int) -> None: ...


@pytest.mark.parametrize("change", ["parameters", "no coroutine", "result", "no result", "no switch"])
async def test_an_aiortc_built_otherwise_keeps_its_own(
    sending: RTCRtpSender, change: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    match change:
        case "parameters":
            monkeypatch.setattr(sending, "_next_encoded_frame", _other_parameters)
        case "no coroutine":
            monkeypatch.setattr(sending, "_next_encoded_frame", lambda codec: None)
        case "result":
            monkeypatch.setattr(aiortc.rtcrtpsender, "RTCEncodedFrame", _OtherResult)
        case "no result":
            monkeypatch.delattr(aiortc.rtcrtpsender, "RTCEncodedFrame")
        case "no switch":
            monkeypatch.delattr(sending, "_enabled")
    before = sending._next_encoded_frame
    assert not sender.install(sending, OpusOptions())
    assert sending._next_encoded_frame == before
    assert "it keeps its own" in caplog.text
