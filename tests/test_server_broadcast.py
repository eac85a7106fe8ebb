"""One voice to many, without a network."""

import asyncio
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame
from caller import RecordedTrack
from calling import until

from server import broadcast
from server.broadcast import ListenerTrack
from server.media import opus


async def test_the_time_between_two_publishers_is_on_the_timeline_of_their_listeners(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(broadcast, "time", SimpleNamespace(monotonic=lambda: now))
    voice = broadcast.Broadcast(opus.OpusOptions(stereo=True))
    ear, times = voice.listen(), []
    for _ in range(2):
        publisher = RecordedTrack(np.zeros(960, np.int16))
        voice.publish(publisher)
        times.append((await ear.recv()).pts)
        now += 9  # its network is gone, and 9 s later it is given up
        publisher.stop()
        await voice.unpublish()
    assert times[1] - times[0] == pytest.approx(9 * 48_000, abs=960)


class Utterance(MediaStreamTrack):
    """Gives so many packets at once, then ends."""

    kind = "audio"

    def __init__(self, count: int) -> None:
        super().__init__()
        self._times = iter(range(0, count * 960, 960))

    async def recv(self) -> AudioFrame:
        try:
            time = next(self._times)
        except StopIteration:
            raise MediaStreamError from None
        frame = AudioFrame.from_ndarray(np.zeros((1, 960), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 48_000, Fraction(1, 48_000), time
        return frame


@pytest.mark.parametrize("pause", [0.0, 0.005, 0.02])
async def test_no_time_comes_twice_where_publishers_follow_without_a_pause(
    pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(broadcast, "time", SimpleNamespace(monotonic=lambda: now))
    voice = broadcast.Broadcast(opus.OpusOptions())
    ear = voice.listen()
    for _ in range(3):
        voice.publish(Utterance(4))
        await until(lambda: not voice.live, "its end")
        now += pause
    times = [packet.pts for packet in ear._packets]
    assert np.diff(times).tolist() == [960] * 11


async def test_who_begins_to_listen_hears_what_is_said_now_and_all_that_follows() -> None:
    track = ListenerTrack(lambda _: None)
    said = [opus.encoded(b"", n * 960, 0) for n in range(16)]
    for packet in said[:8]:
        track.give(packet)
    assert await track.recv() is said[7]
    for packet in said[8:]:
        track.give(packet)
    assert [await track.recv() for _ in range(8)] == said[8:]
    assert not track.dropped


async def test_a_voice_that_cannot_be_sent_ends_where_it_comes_from() -> None:
    voice = broadcast.Broadcast(opus.OpusOptions())  # mono, and the track is stereo
    publisher = RecordedTrack(np.zeros(960, np.int16))
    ended = asyncio.Event()
    publisher.on("ended", ended.set)
    voice.publish(publisher)
    await asyncio.wait_for(ended.wait(), 20)
    assert not voice.live
    await voice.unpublish()
