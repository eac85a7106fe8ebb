"""The adapters inside aiortc: that they fit the aiortc installed, and step back from one they do not fit."""

import asyncio
import threading
import time
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import aiortc.rtcrtpreceiver
import aiortc.rtcrtpsender
import aiortc.rtp
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver
from aiortc.codecs import CODECS
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket
from av import AudioFrame
from calling import until

from server.frames import FASTEST, LONGEST_BACKLOG
from server.media import audiolevel, receiver
from server.media.jitter import LONGEST_WAIT


def audio_frame(pcm: np.ndarray, layout: str) -> AudioFrame:
    frame = AudioFrame.from_ndarray(pcm.astype(np.int16).reshape(1, -1), format="s16", layout=layout)
    frame.sample_rate, frame.time_base, frame.pts = 48_000, Fraction(1, 48_000), 0
    return frame


@pytest.fixture
async def fresh() -> RTCRtpReceiver:
    """A receiver as it is when its track is announced."""
    offering, answering = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    offering.addTransceiver("audio")
    await offering.setLocalDescription(await offering.createOffer())
    await answering.setRemoteDescription(offering.localDescription)
    (result,) = answering.getReceivers()
    await offering.close()
    await answering.close()
    return result


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize("amplitude", [32767, 3276.7, 100, 1, 0])
def test_the_level_is_that_of_the_samples(amplitude: float, layout: str) -> None:
    sine = amplitude * np.sin(2 * np.pi * 1000 / 48_000 * np.arange(960))
    pcm = np.round(sine).repeat(2 if layout == "stereo" else 1)
    power = np.mean(np.square(pcm / 32768))
    wanted = round(10 * np.log10(power)) if power else -127
    assert audiolevel.audio_level_dbov(audio_frame(pcm, layout)) == wanted


def test_a_decoded_frame_has_more_room_than_samples() -> None:
    """The trap of aiortc's own function: the plane of a decoded frame goes on after the samples."""
    encoder = aiortc.codecs.opus.OpusEncoder()
    decoder = aiortc.codecs.opus.OpusDecoder()
    noise = np.random.default_rng(0).normal(0, 3000, 1920)
    payloads, timestamp = encoder.encode(audio_frame(noise, "stereo"))
    (frame,) = decoder.decode(aiortc.jitterbuffer.JitterFrame(payloads[0], timestamp))
    samples = frame.to_ndarray()
    assert frame.planes[0].buffer_size > samples.nbytes
    wanted = round(10 * np.log10(np.mean(np.square(samples / 32768))))
    assert audiolevel.audio_level_dbov(frame) == wanted


def test_the_level_is_installed_where_the_sender_looks() -> None:
    assert audiolevel.install()
    assert aiortc.rtcrtpsender.rtp.compute_audio_level_dbov is audiolevel.audio_level_dbov


def test_an_aiortc_without_the_function_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(aiortc.rtp, "compute_audio_level_dbov")
    assert not audiolevel.install()
    assert "compute_audio_level_dbov" in caplog.text
    assert not hasattr(aiortc.rtp, "compute_audio_level_dbov")


async def test_the_jitter_buffer_fits_this_aiortc(
    fresh: RTCRtpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    reception = receiver.install(fresh)
    assert reception is not None
    assert caplog.text == ""
    reception.close()


async def test_an_aiortc_whose_decoder_works_otherwise_keeps_it(
    fresh: RTCRtpReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(aiortc.rtcrtpreceiver, "decoder_worker", lambda loop, queue: None)
    assert receiver.install(fresh) is None
    assert "decoder_worker(loop, input_q, output_q, decode_error)" in caplog.text


@pytest.mark.parametrize("name", ["jitter_buffer", "decoder_queue", "codecs", "decoder_thread"])
async def test_an_aiortc_built_otherwise_keeps_its_own_jitter_buffer(
    fresh: RTCRtpReceiver, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    delattr(fresh, "_RTCRtpReceiver__" + name)
    queue = fresh.track._queue
    assert receiver.install(fresh) is None
    assert name in caplog.text
    assert fresh.track._queue is queue


async def test_a_full_queue_of_frames_drops_the_oldest_and_never_blocks() -> None:
    queue = receiver.LatestFrames(0.1)
    for n in range(10):
        frame = audio_frame(np.zeros(1920), "mono")
        frame.pts = n
        queue.add(frame)
    queue.add(None)  # the end of the track is the last thing to come, so it is never dropped
    first, second, end = (queue.get_nowait() for _ in range(3))
    assert (first.pts, second.pts, end) == (8, 9, None)
    assert queue.dropped == 8


async def test_a_burst_of_the_shortest_packets_is_kept_as_long_as_one_of_the_longest() -> None:
    for samples in (120, 960, 5760):
        queue = receiver.LatestFrames()
        count = int(LONGEST_BACKLOG * 48_000 / samples)
        for _ in range(count):
            queue.add(audio_frame(np.zeros(samples), "mono"))
        assert (queue.qsize(), queue.dropped) == (count, 0)
        for _ in range(3 * count):
            queue.add(audio_frame(np.zeros(samples), "mono"))
        assert (queue.qsize(), queue.dropped) == (count, 3 * count)


OPUS = bytes([9 << 3, 0, 0xFE])  # SILK, 20 ms, mono, without FEC: any bytes after that can be decoded


class Arrivals:
    """Feeds a reception and looks at what it decodes."""

    def __init__(self, fresh: RTCRtpReceiver, codec: RTCRtpCodecParameters = CODECS["audio"][0]) -> None:
        reception = receiver.install(fresh)
        assert reception is not None
        self.reception = reception
        setattr(fresh, "_RTCRtpReceiver__codecs", {codec.payloadType: codec})  # noqa: B010 — the mangled name
        self._payload_type = codec.payloadType

    def come(self, sequence: int, timestamp: int, ssrc: int = 1, data: bytes = OPUS) -> None:
        packet = RtpPacket(
            payload_type=self._payload_type,
            sequence_number=sequence & 0xFFFF,
            timestamp=timestamp & 0xFFFFFFFF,
            ssrc=ssrc,
        )
        packet._data = data  # type: ignore[attr-defined]
        assert self.reception.add(packet) == (False, None)

    def frames(self) -> list[AudioFrame]:
        queue = self.reception.frames
        return [queue.get_nowait() for _ in range(queue.qsize())]

    def decoded(self) -> list[int | None]:
        return [frame.pts for frame in self.frames()]


async def test_timestamps_begin_at_0_and_go_on_over_their_wrap(fresh: RTCRtpReceiver) -> None:
    arrivals = Arrivals(fresh)
    for n in range(6):
        arrivals.come(65533 + n, (1 << 32) - 2000 + n * 960)
    assert arrivals.decoded() == [n * 960 for n in range(6)]


async def test_who_lets_frames_flow_gets_those_that_wait_and_then_each_as_it_comes(
    fresh: RTCRtpReceiver,
) -> None:
    arrivals = Arrivals(fresh)
    arrivals.come(0, 0)
    taken: list[tuple[int | None, float | None]] = []
    arrivals.reception.frames.flow(lambda frame, came: taken.append((frame.pts if frame else None, came)))
    before = time.monotonic()
    arrivals.come(1, 960)
    after = time.monotonic()
    arrivals.reception.decoder_queue.put(None)
    (first, _), (second, came), (end, _) = taken
    assert (first, second, end) == (0, 960, None)
    assert came is not None
    assert before <= came <= after


async def test_a_hole_is_given_up_by_the_clock_without_another_packet(fresh: RTCRtpReceiver) -> None:
    arrivals = Arrivals(fresh)
    arrivals.come(0, 0)
    arrivals.come(2, 1920)
    assert arrivals.decoded() == [0]
    await until(lambda: arrivals.reception.counts.lost > 0, "the hole is given up")
    assert arrivals.decoded() == [960, 1920]
    assert arrivals.reception.packets()["concealed"] == 1
    assert arrivals.reception.network()["concealed_ms"] == 20
    arrivals.reception.close()


async def test_another_source_is_followed_at_once_and_the_counts_go_on(fresh: RTCRtpReceiver) -> None:
    arrivals = Arrivals(fresh)
    arrivals.come(10, 5000)
    arrivals.come(11, 5960)
    arrivals.come(40000, 77, ssrc=2)
    arrivals.come(40001, 1037, ssrc=2)
    assert arrivals.decoded() == [0, 960, 2880, 3840]  # a packet's length to fade over
    assert arrivals.reception.counts.received == 4
    assert arrivals.reception.counts.lost == 0


async def test_timestamps_of_another_source_are_neither_a_hole_nor_jitter(
    fresh: RTCRtpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where they are ahead by so little that they could go on."""
    clock = 100.0
    monkeypatch.setattr(receiver, "time", SimpleNamespace(monotonic=lambda: clock))
    arrivals = Arrivals(fresh)
    for n in range(4):
        arrivals.come(10 + n, 5000 + n * 960 + (n >= 2) * 9600, ssrc=1 + (n >= 2))
        clock += 0.02
    assert arrivals.decoded() == [0, 960, 2880, 3840]  # a packet's length to fade over
    network = arrivals.reception.network()
    assert (network["jitter_ms"], network["concealed_ms"], network["missing_ms"]) == (0, 0, 0)


async def test_a_packet_of_the_source_before_that_was_overtaken_is_late(fresh: RTCRtpReceiver) -> None:
    arrivals = Arrivals(fresh)
    arrivals.come(10, 5000)
    arrivals.come(40000, 77, ssrc=2)
    arrivals.come(11, 5960)
    arrivals.come(40001, 1037, ssrc=2)
    assert arrivals.decoded() == [0, 1920, 2880]
    assert (arrivals.reception.counts.received, arrivals.reception.counts.late) == (4, 1)


async def test_sources_that_change_faster_than_any_network_are_not_followed(
    fresh: RTCRtpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a new decoder, and a seam."""
    clock = 100.0
    monkeypatch.setattr(receiver, "time", SimpleNamespace(monotonic=lambda: clock))
    arrivals = Arrivals(fresh)
    begun: list[float] = []
    follow = arrivals.reception._follow
    monkeypatch.setattr(arrivals.reception, "_follow", lambda ssrc: [begun.append(clock), follow(ssrc)])
    for n in range(500):
        arrivals.come(n, n * 960, ssrc=n % 4)
        clock += 0.002
    assert begun[:2] == [100.0, 100.002]  # one takes over at once
    assert all(later - earlier >= LONGEST_WAIT for earlier, later in pairwise(begun[1:]))
    assert len(begun) > 5
    assert arrivals.reception.counts.received == 500
    arrivals.reception.close()


async def test_changes_of_the_codec_use_up_a_callers_time(
    fresh: RTCRtpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 100.0
    monkeypatch.setattr(receiver, "time", SimpleNamespace(monotonic=lambda: clock))
    decoded: list[str] = []
    monkeypatch.setattr(receiver.Decoding, "decode", lambda _, codec, *rest: decoded.append(codec.mimeType))
    arrivals = Arrivals(fresh)
    opus, pcmu = (next(codec for codec in CODECS["audio"] if codec.name == name) for name in ("opus", "PCMU"))
    codecs = {codec.payloadType: codec for codec in (opus, pcmu)}
    setattr(fresh, "_RTCRtpReceiver__codecs", codecs)  # noqa: B010 — the mangled name
    for n in range(12_000):
        arrivals._payload_type = (pcmu if n >= 6000 and n % 2 else opus).payloadType
        arrivals.come(n, n * 120)
        clock += 1 / 600
    assert decoded[:6000] == ["audio/opus"] * 6000
    changes = sum(before != after for before, after in pairwise(decoded))
    assert 0 < changes <= FASTEST * 12  # in 10 s, and what was left


async def test_an_empty_packet_does_not_end_the_decoder_and_is_not_lost(fresh: RTCRtpReceiver) -> None:
    arrivals = Arrivals(fresh)
    arrivals.come(0, 0)
    arrivals.come(1, 960, data=b"")
    arrivals.come(2, 1920)
    assert arrivals.decoded() == [0, 960, 1920]
    assert arrivals.reception.counts.lost == 0


async def test_a_packet_that_is_no_opus_is_counted_and_the_next_is_decoded(
    fresh: RTCRtpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    arrivals = Arrivals(fresh)
    for n, data in enumerate([OPUS, b"\xff\xff\xff", b"\xff\xff\xff", OPUS]):
        arrivals.come(n, n * 960, data=data)
    assert [frame.samples for frame in arrivals.frames()] == [960, 1920, 960]
    assert arrivals.reception.packets()["undecodable"] == arrivals.reception.packets()["concealed"] == 2
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("mode", "samples"), [(28, 120), (29, 240), (30, 480), (31, 960), (10, 1920), (11, 2880)]
)
@pytest.mark.parametrize("stereo", [False, True])
async def test_packets_of_any_length_are_decoded_to_mono(
    fresh: RTCRtpReceiver, mode: int, samples: int, stereo: bool
) -> None:
    arrivals = Arrivals(fresh)
    arrivals.come(0, 0, data=bytes([mode << 3 | stereo << 2]) + bytes(20))
    (frame,) = arrivals.frames()
    assert (frame.samples, frame.sample_rate, frame.layout.name) == (samples, 48_000, "mono")


async def test_another_codec_is_decoded_by_aiortc(fresh: RTCRtpReceiver) -> None:
    arrivals = Arrivals(fresh, CODECS["audio"][2])
    arrivals.come(0, 0, data=bytes(160))
    (frame,) = arrivals.frames()
    assert (frame.samples, frame.sample_rate) == (160, 8000)


async def test_the_thread_of_the_decoder_ends_at_once_and_the_track_with_the_receiver(
    fresh: RTCRtpReceiver,
) -> None:
    arrivals = Arrivals(fresh)
    queue = arrivals.reception.decoder_queue
    output, error = arrivals.reception.frames, threading.Event()
    work = (asyncio.get_running_loop(), queue, output, error)
    await asyncio.to_thread(aiortc.rtcrtpreceiver.decoder_worker, *work)
    arrivals.come(0, 0)
    queue.put(None)
    queue.put(None)
    arrivals.come(1, 960)
    frame, end = arrivals.frames()
    assert frame.pts == 0
    assert end is None
