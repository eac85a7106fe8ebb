"""The enhanced track between a source of frames and the engine."""

import asyncio
import time
from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame
from calling import TIMEOUT, until
from engines import Gate

from percepnet import Enhancer
from percepnet.concealment import Concealer
from percepnet.framing import LATENCY, Float, Pcm
from server.controls import Controls
from server.engine import Engine
from server.frames import BACKLOG_PACKETS, CUT, FASTEST
from server.track import KEPT_ARRIVALS, EnhancedTrack

PACKET = 960


class Source(MediaStreamTrack):
    """Gives frames as fast as they are asked for, then ends."""

    kind = "audio"

    def __init__(self, frames: list[AudioFrame]) -> None:
        super().__init__()
        self._frames = iter(frames)

    async def recv(self) -> AudioFrame:
        await asyncio.sleep(0)
        try:
            return next(self._frames)
        except StopIteration:
            raise MediaStreamError from None


def frames(
    pcm: Pcm,
    *,
    length: int = PACKET,
    rate: int = 48_000,
    layout: str = "stereo",
    first: int = 0,
) -> list[AudioFrame]:
    result = []
    for start in range(0, len(pcm) - length + 1, length):
        part = pcm[start : start + length]
        part = part.repeat(2) if layout == "stereo" else part
        frame = AudioFrame.from_ndarray(part[np.newaxis], format="s16", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), first + start
        result.append(frame)
    return result


async def drained(track: EnhancedTrack) -> list[AudioFrame]:
    heard = []
    async with asyncio.timeout(TIMEOUT):
        try:
            while True:
                heard.append(await track.recv())
        except MediaStreamError:
            return heard


@pytest.fixture
def engine() -> Iterator[Engine]:
    # nothing is ever late
    engine = Engine(Enhancer(streams=2), streams=2, queue_packets=50, clock=lambda: 0.0)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def speech(noisy: Float) -> Pcm:
    return (noisy[: 40 * PACKET] * 32768).astype(np.int16)


def paced(source: Source, track: EnhancedTrack) -> None:
    """A source that gives its next frame once all before are enhanced, as a network does."""
    give = source.recv

    async def recv() -> AudioFrame:
        figures = track.port.figures
        await until(lambda: figures.packets_in == figures.packets_out, "the engine keeps up")
        return await give()

    source.recv = recv  # type: ignore[method-assign]


@pytest.mark.parametrize("layout", ["mono", "stereo"])
async def test_it_gives_what_an_enhancer_gives_in_the_format_it_came_in(
    engine: Engine, speech: Pcm, layout: str
) -> None:
    source = Source(frames(speech, layout=layout, first=4711))
    track = EnhancedTrack(source, engine)
    paced(source, track)
    heard = await drained(track)
    assert [frame.pts for frame in heard] == [4711 + n * PACKET for n in range(40)]
    assert {(f.sample_rate, f.time_base, f.format.name, f.layout.name, f.samples) for f in heard} == {
        (48_000, Fraction(1, 48_000), "s16", layout, PACKET)
    }
    pcm = np.concatenate([frame.to_ndarray().reshape(PACKET, -1) for frame in heard])
    assert np.array_equal(pcm[:, 0], pcm[:, -1])
    enhancer = Enhancer()
    packets = (speech / np.float32(32768)).astype(np.float32).reshape(40, 1, PACKET)
    wanted = np.concatenate([enhancer.process(packet)[0] for packet in packets])
    assert np.abs(pcm[:, 0] / 32768 - wanted).max() <= 0.6 / 32768  # rounding to 16 bits


@pytest.mark.parametrize("length", [120, 480, 2880])
async def test_frames_of_any_length_come_back_as_20_ms(engine: Engine, speech: Pcm, length: int) -> None:
    source = Source(frames(speech[: 36 * PACKET], length=length))
    track = EnhancedTrack(source, engine, Controls(enabled=False))
    paced(source, track)
    heard = await drained(track)
    assert [frame.pts for frame in heard] == [n * PACKET for n in range(36)]
    pcm = np.concatenate([frame.to_ndarray()[0, ::2] for frame in heard]).astype(int)
    assert np.abs(pcm[LATENCY:] - speech[: 36 * PACKET - LATENCY]).max() <= 1


async def test_telephone_audio_comes_back_as_telephone_audio(engine: Engine) -> None:
    tone = (8000 * np.sin(2 * np.pi * 440 / 8000 * np.arange(8000))).astype(np.int16)
    source = Source(frames(tone, length=160, rate=8000, layout="mono"))
    track = EnhancedTrack(source, engine, Controls(enabled=False))
    paced(source, track)
    heard = await drained(track)
    assert [frame.pts for frame in heard] == [n * 160 for n in range(50)]
    assert {(f.sample_rate, f.time_base, f.layout.name, f.samples) for f in heard} == {
        (8000, Fraction(1, 8000), "mono", 160)
    }
    pcm = np.concatenate([frame.to_ndarray()[0] for frame in heard]).astype(float)
    spectrum = np.abs(np.fft.rfft(pcm[1000:7000] * np.hanning(6000)))
    assert np.argmax(spectrum) == 440 * 6000 / 8000
    assert np.std(pcm[1000:7000]) == pytest.approx(8000 / np.sqrt(2), rel=0.02)


async def test_who_begins_as_a_telephone_is_not_held_to_its_band(engine: Engine, speech: Pcm) -> None:
    early = AudioFrame.from_ndarray(np.zeros((1, 160), np.int16), format="s16", layout="mono")
    early.sample_rate, early.pts, early.time_base = 8_000, 0, Fraction(1, 8_000)
    source = Source([early, *frames(speech)[1:]])
    track = EnhancedTrack(source, engine, Controls(enabled=False), layout="mono", rate=48_000)
    paced(source, track)
    heard = await drained(track)
    assert {(frame.sample_rate, frame.samples) for frame in heard} == {(48_000, PACKET)}
    pcm = np.concatenate([frame.to_ndarray()[0] for frame in heard]).astype(int)
    late = LATENCY + 2 * PACKET
    assert np.abs(pcm[late:] - speech[late - LATENCY : len(pcm) - LATENCY]).max() <= 1


async def test_a_gap_in_pts_is_filled_and_what_follows_keeps_its_time(engine: Engine, speech: Pcm) -> None:
    sent = frames(speech)
    source = Source(sent[:10] + sent[13:])
    track = EnhancedTrack(source, engine, Controls(enabled=False))
    paced(source, track)
    heard = await drained(track)
    assert [frame.pts for frame in heard] == [n * PACKET for n in range(40)]
    pcm = np.concatenate([frame.to_ndarray()[0, ::2] for frame in heard]).astype(int)
    assert np.abs(pcm[LATENCY:] - speech[:-LATENCY])[: 10 * PACKET].max() <= 1
    assert np.abs(pcm[LATENCY:] - speech[:-LATENCY])[13 * PACKET + CUT :].max() <= 1
    assert pcm[LATENCY + 10 * PACKET : LATENCY + 13 * PACKET].any()


async def test_after_a_pause_nothing_is_sent_whose_time_has_passed(engine: Engine, speech: Pcm) -> None:
    sent = frames(speech)
    for frame in sent[10:]:
        frame.pts += 2 * 48_000
    source = Source(sent)
    track = EnhancedTrack(source, engine, Controls(enabled=False))
    paced(source, track)
    heard = await drained(track)
    begun = 10 * PACKET + 2 * 48_000
    late = [frame.pts for frame in heard if 10 * PACKET <= frame.pts < begun]
    assert late == [begun - PACKET]  # the one that encoders may stamp wrongly
    assert [frame.pts for frame in heard if frame.pts >= begun] == [begun + n * PACKET for n in range(30)]
    pcm = np.concatenate([frame.to_ndarray()[0, ::2] for frame in heard if frame.pts >= begun]).astype(int)
    said = speech[10 * PACKET : 40 * PACKET - LATENCY]
    assert np.abs(pcm[LATENCY:] - said)[CUT:].max() <= 1


async def test_nothing_of_before_a_pause_is_heard_after_it(engine: Engine) -> None:
    tone = (16_000 * np.sin(2 * np.pi * 200 / 48_000 * np.arange(10 * PACKET))).astype(np.int16)
    quiet = np.random.default_rng(0).integers(-30, 30, 30 * PACKET).astype(np.int16)
    sent = frames(np.concatenate([quiet, tone, quiet]))
    for frame in sent[40:]:
        frame.pts += 3 * 48_000
    source = Source(sent)
    track = EnhancedTrack(source, engine, Controls(enabled=False), layout="mono")
    paced(source, track)
    heard = [frame for frame in await drained(track) if frame.pts >= 40 * PACKET]
    assert heard[0].pts > 2 * 48_000
    assert max(np.abs(frame.to_ndarray().astype(int)).max() for frame in heard) < 200


async def test_a_slow_reader_misses_the_oldest_and_gets_no_delay(engine: Engine, speech: Pcm) -> None:
    source = Source(frames(speech))
    track = EnhancedTrack(source, engine)
    paced(source, track)
    first = await track.recv()
    await until(lambda: track._returned == 40, "all are enhanced")
    heard = await drained(track)
    assert first.pts == 0
    assert [frame.pts for frame in heard] == [n * PACKET for n in range(40 - BACKLOG_PACKETS, 40)]
    assert track.skipped == 40 - 1 - BACKLOG_PACKETS


async def test_what_a_slow_reader_misses_leaves_no_step(engine: Engine) -> None:
    rising = np.linspace(0, 1, (BACKLOG_PACKETS + 3) * PACKET, dtype=np.float32).reshape(-1, PACKET)
    track = EnhancedTrack(Source([]), engine)
    for n, samples in enumerate(rising):
        track._enhanced(n * PACKET, samples)
    oldest = track._ready[0]
    assert oldest.time == 3 * PACKET
    assert oldest.samples[0] == rising[0, 0]  # as what was fetched before would have gone on
    fall = rising[3, 0] - rising[0, 0]  # in three ramps over each other: at most thrice as steep as one
    assert np.abs(np.diff(oldest.samples)).max() < 3 * fall / CUT
    assert np.array_equal(oldest.samples[CUT:], rising[3, CUT:])
    track.stop()


async def test_a_track_ends_with_its_source_though_a_full_queue_has_dropped_packets(
    speech: Pcm,
) -> None:
    gate = Gate(1)
    engine = Engine(gate, streams=1, queue_packets=7, clock=lambda: 0.0)
    engine.start()
    try:
        track = EnhancedTrack(Source(frames(speech[: 20 * PACKET])), engine)
        gate.open.clear()
        reader = asyncio.create_task(drained(track))
        figures = track.port.figures
        await until(lambda: figures.packets_in == 20, "all wait or are dropped")
        gate.open.set()
        heard = await reader
    finally:
        gate.open.set()
        engine.stop()
    assert figures.dropped >= 20 - 7 - 1  # one is at work, if the engine was quick
    assert len(heard) == 20 - figures.dropped


async def test_a_burst_after_a_stall_of_half_a_second_passes_whole(speech: Pcm) -> None:
    engine = Engine(Enhancer(), streams=1, clock=lambda: 0.0)
    engine.start()
    try:
        track = EnhancedTrack(Source(frames(speech[: 25 * PACKET])), engine)
        heard = await drained(track)
    finally:
        engine.stop()
    assert [frame.pts for frame in heard] == [n * PACKET for n in range(25)]
    assert track.skipped == track.port.figures.dropped == 0


async def test_timestamps_that_jump_cost_no_more_than_the_pace_allows(
    engine: Engine, speech: Pcm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each would take to be joined to the last is the time of all callers."""
    concealed: list[int] = []
    conceal = Concealer.conceal
    monkeypatch.setattr(
        Concealer, "conceal", lambda self, count: concealed.append(count) or conceal(self, count)
    )
    track, steady = (EnhancedTrack(Source([]), engine) for _ in range(2))
    now = time.monotonic()
    monkeypatch.setattr("server.track.clock", SimpleNamespace(monotonic=lambda: now))
    for n in range(500):
        (frame,) = frames(speech[:PACKET], first=n * 7 * PACKET)
        track._take(frame)
    assert len(concealed) < 2 * FASTEST  # two seconds' worth
    assert track.skipped > 300

    for n in range(500):  # faster than time, but each follows the last: none is concealed
        (frame,) = frames(speech[:PACKET], first=n * PACKET)
        steady._take(frame)
    assert steady.skipped == pytest.approx(500 - 2 * FASTEST, abs=1)
    track.stop()
    steady.stop()


async def test_times_of_arrival_are_not_kept_without_end(
    engine: Engine, speech: Pcm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of packets that nobody fetches."""
    now = time.monotonic()
    monkeypatch.setattr("server.track.clock", SimpleNamespace(monotonic=lambda: now))
    track = EnhancedTrack(Source([]), engine)
    for n in range(200):
        now += 0.02
        (frame,) = frames(speech[:PACKET], first=n * PACKET)
        track._take(frame)
    assert track.skipped == 0
    assert list(track._arrivals) == [n * PACKET for n in range(200 - KEPT_ARRIVALS, 200)]
    assert KEPT_ARRIVALS < 100
    track.stop()


async def test_stopping_wakes_the_reader_and_gives_the_place_back(engine: Engine) -> None:
    class Silent(MediaStreamTrack):
        kind = "audio"

        async def recv(self) -> AudioFrame:
            await asyncio.Event().wait()
            raise AssertionError

    before = len(asyncio.all_tasks())
    tracks = [EnhancedTrack(Silent(), engine) for _ in range(2)]
    readers = [asyncio.create_task(track.recv()) for track in tracks]
    await asyncio.sleep(0)
    for track in tracks:
        track.stop()
        await track.closed()
    for reader in readers:
        with pytest.raises(MediaStreamError):
            await asyncio.wait_for(reader, TIMEOUT)
    with pytest.raises(MediaStreamError):
        await tracks[0].recv()
    EnhancedTrack(Silent(), engine), EnhancedTrack(Silent(), engine)
    assert len(asyncio.all_tasks()) == before


async def test_a_source_of_another_kind_ends_the_track(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(MediaStreamTrack):
        kind = "audio"

        async def recv(self) -> str:  # type: ignore[override]
            return "no frame"

    assert await drained(EnhancedTrack(Wrong(), engine)) == []
    assert "not str" in caplog.text
