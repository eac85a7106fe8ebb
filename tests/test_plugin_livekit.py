"""The processor for LiveKit, in LiveKit's own audio streams."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from percepnet import StreamingEnhancer
from percepnet.framing import Float, Pcm
from server.loadtest.hearing import lag
from server.waiting import cancelled

pytest.importorskip("livekit.rtc")

from livekit import rtc

from percepnet.integrations.livekit import PercepNetProcessor

TIMEOUT = 20.0  # s


@pytest.fixture
def voice(noisy: Float) -> Pcm:
    """3 s."""
    return (noisy[48_000 : 4 * 48_000] * 32768).round().astype(np.int16)


def frames(voice: Pcm, rate: int, size: int) -> list[rtc.AudioFrame]:
    parts = [voice[start : start + size] for start in range(0, len(voice), size)]
    return [
        rtc.AudioFrame(part.tobytes(), rate, 1, len(part), userdata={"n": n}) for n, part in enumerate(parts)
    ]


def pcm(heard: list[rtc.AudioFrame]) -> Pcm:
    return np.concatenate([np.frombuffer(frame.data, np.int16) for frame in heard])


@asynccontextmanager
async def speaking(voice: Pcm) -> AsyncIterator[rtc.LocalAudioTrack]:
    """A microphone's track, without a server."""
    source = rtc.AudioSource(48_000, 1)

    async def speak() -> None:
        for frame in itertools.cycle(frames(voice, 48_000, 480)):
            await source.capture_frame(frame)

    talking = asyncio.create_task(speak())
    try:
        yield rtc.LocalAudioTrack.create_audio_track("microphone", source)
    finally:
        await cancelled(talking)
        await source.aclose()


class Recording(PercepNetProcessor):
    """Keeps what LiveKit gives it, which on a busy machine has holes."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[rtc.AudioFrame] = []

    def _process(self, frame: rtc.AudioFrame) -> rtc.AudioFrame:
        self.came.append(frame)
        return super()._process(frame)


async def test_livekits_stream_brings_the_enhanced_voice(voice: Pcm) -> None:
    processor = Recording()
    assert isinstance(processor, rtc.FrameProcessor)
    heard: list[rtc.AudioFrame] = []
    async with speaking(voice) as track, asyncio.timeout(TIMEOUT):
        stream = rtc.AudioStream(
            track, sample_rate=24_000, num_channels=1, frame_size_ms=20, noise_cancellation=processor
        )
        async for event in stream:
            heard.append(event.frame)
            if len(heard) == 75:
                break
        await stream.aclose()
    came, out = pcm(processor.came), pcm(heard)
    assert lag(np.resize(voice[::2], 2 * len(came)), came) is not None  # it is the voice that came
    np.testing.assert_allclose(out, StreamingEnhancer(24_000).process_pcm(came)[: len(out)], atol=1)


@pytest.mark.parametrize(("rate", "size"), [(48_000, 480), (24_000, 1_200), (16_000, 333)])
def test_frames_come_back_as_long_and_enhanced(voice: Pcm, rate: int, size: int) -> None:
    processor = PercepNetProcessor()
    asked = frames(voice[:rate], rate, size)
    heard = [processor._process(frame) for frame in asked]
    for frame, back in zip(asked, heard, strict=True):
        assert (back.sample_rate, back.num_channels) == (rate, 1)
        assert back.samples_per_channel == frame.samples_per_channel
        assert back.userdata == frame.userdata
    np.testing.assert_allclose(pcm(heard), StreamingEnhancer(rate).process_pcm(voice[:rate]), atol=1)


def test_turned_off_it_stays_in_the_way_so_that_the_voice_does_not_jump(voice: Pcm) -> None:
    processor = PercepNetProcessor()
    asked = frames(voice, 48_000, 480)
    heard = [processor._process(frame) for frame in asked[:150]]
    processor.enabled = False
    assert processor.enabled  # or LiveKit would go around it
    assert not processor.suppressing
    out = pcm(heard + [processor._process(frame) for frame in asked[150:]])
    late = StreamingEnhancer(48_000).latency_samples
    settled = slice(160 * 480, None)
    np.testing.assert_allclose(out[settled], voice[160 * 480 - late : -late], atol=2)
    with pytest.raises(TypeError, match="enabled is 'no'; allowed: True and False"):
        processor.enabled = "no"  # type: ignore[assignment]
    assert processor.suppressing is False


def test_another_track_or_the_next_stream_is_a_new_voice(voice: Pcm) -> None:
    processor = PercepNetProcessor()
    asked = frames(voice, 48_000, 480)[:100]
    new = pcm([processor._process(frame) for frame in asked])
    for begin in (
        lambda: processor._on_stream_info_updated(room_name="", participant_identity="", publication_sid="B"),
        processor._close,
    ):
        begin()
        np.testing.assert_array_equal(pcm([processor._process(frame) for frame in asked]), new)
    # still there
    processor._on_stream_info_updated(room_name="", participant_identity="", publication_sid="B")
    assert np.abs(pcm([processor._process(asked[0])])).max() > 0


def test_two_channels_are_refused(voice: Pcm) -> None:
    with pytest.raises(ValueError, match="2 channels; allowed: 1"):
        PercepNetProcessor()._process(rtc.AudioFrame(voice[:960].tobytes(), 48_000, 2, 480))
