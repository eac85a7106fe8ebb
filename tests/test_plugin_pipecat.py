"""The filter for Pipecat, in Pipecat's own pipeline."""

import asyncio
import threading
from itertools import cycle
from typing import Any

import numpy as np
import pytest

from percepnet import StreamingEnhancer
from percepnet.framing import Float, Pcm
from percepnet.resampling import resample

pytest.importorskip("pipecat")

from pipecat.audio.filters.base_audio_filter import BaseAudioFilter
from pipecat.frames.frames import (
    FilterEnableFrame,
    FilterUpdateSettingsFrame,
    InputAudioRawFrame,
    StartFrame,
)
from pipecat.pipeline.worker import PipelineParams
from pipecat.tests.utils import run_test
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_transport import TransportParams

from percepnet.integrations.pipecat import PercepNetFilter

RATE = 16_000


@pytest.fixture
def voice(noisy: Float) -> Pcm:
    """2 s."""
    wide = resample(noisy[np.newaxis, 48_000 : 3 * 48_000], 48_000, RATE)[0]
    return (wide * 32768).round().astype(np.int16)


class Microphone(BaseInputTransport):
    """A transport that hears chunks of ``voice``, of those lengths in turn."""

    def __init__(self, params: TransportParams, voice: Pcm, sizes: list[int]) -> None:
        super().__init__(params)
        self._voice = voice
        self._sizes = sizes

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)
        start, sizes = 0, cycle(self._sizes)
        while start < len(self._voice):
            chunk = self._voice[start : start + next(sizes)]
            await self.push_audio_frame(InputAudioRawFrame(chunk.tobytes(), self.sample_rate, 1))
            start += len(chunk)
        await self._audio_in_queue.join()


async def through_pipecat(noise_filter: BaseAudioFilter, voice: Pcm, sizes: list[int]) -> list[Pcm]:
    """What comes out of Pipecat's pipeline."""
    params = TransportParams(audio_in_enabled=True, audio_in_passthrough=True, audio_in_filter=noise_filter)
    down, _ = await run_test(
        Microphone(params, voice, sizes),
        frames_to_send=[],
        pipeline_params=PipelineParams(audio_in_sample_rate=RATE),
        start_timeout=20,
    )
    return [np.frombuffer(frame.audio, np.int16) for frame in down if isinstance(frame, InputAudioRawFrame)]


@pytest.mark.parametrize("sizes", [[320], [1, 999, 160, 77]])
async def test_pipecats_transport_hands_on_the_enhanced_voice(voice: Pcm, sizes: list[int]) -> None:
    noise_filter = PercepNetFilter()
    assert isinstance(noise_filter, BaseAudioFilter)
    heard = await through_pipecat(noise_filter, voice, sizes)
    assert [len(chunk) for chunk in heard[:-1]] == [
        size for size, _ in zip(cycle(sizes), heard[:-1], strict=False)
    ]
    np.testing.assert_allclose(np.concatenate(heard), StreamingEnhancer(RATE).process_pcm(voice), atol=1)


async def test_frames_turn_it_off_and_change_settings(voice: Pcm) -> None:
    noise_filter = PercepNetFilter()
    await noise_filter.start(RATE)
    late = StreamingEnhancer(RATE).latency_samples
    await noise_filter.process_frame(FilterEnableFrame(enable=False))
    dry = np.frombuffer(await noise_filter.filter(voice.tobytes()), np.int16)
    assert np.std((dry[late:] - voice[:-late].astype(float))[RATE // 4 :]) < 0.05 * np.std(voice)
    await noise_filter.process_frame(FilterEnableFrame(enable=True))
    await noise_filter.process_frame(FilterUpdateSettingsFrame(settings={"attenuation_limit_db": 0}))
    limited = np.frombuffer(await noise_filter.filter(voice.tobytes()), np.int16)
    np.testing.assert_allclose(limited[RATE:], dry[RATE:], atol=0.1 * np.std(voice))
    with pytest.raises(ValueError, match="volume; allowed: enabled, attenuation_limit_db, postfilter"):
        await noise_filter.process_frame(FilterUpdateSettingsFrame(settings={"volume": 3}))
    await noise_filter.stop()
    assert await noise_filter.filter(b"\1\0") == b"\1\0"


async def test_calls_after_each_other_are_as_new_and_those_at_once_apart(voice: Pcm) -> None:
    alone = StreamingEnhancer(RATE).process_pcm(voice).tobytes()
    one, two = PercepNetFilter(), PercepNetFilter()
    await two.start(RATE)
    for _ in range(2):
        await one.start(RATE)
        heard, _ = await asyncio.gather(one.filter(voice.tobytes()), two.filter(voice[::-1].tobytes()))
        assert heard == alone
        await one.stop()


def test_a_filter_may_go_from_one_event_loop_to_another(voice: Pcm) -> None:
    kept = PercepNetFilter()
    chunk = voice[:320].tobytes()

    async def call() -> list[bytes]:
        await kept.start(RATE)
        heard = await asyncio.gather(*(kept.filter(chunk) for _ in range(3)))  # the lock is waited for
        await kept.stop()
        return heard

    assert asyncio.run(call()) == asyncio.run(call())


async def test_a_chunk_that_is_cancelled_leaves_nobody_else_in_the_voice(
    voice: Pcm, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, most, go_on = 0, 0, threading.Event()

    def slow(self: StreamingEnhancer, pcm: Pcm) -> Pcm:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        go_on.wait(20)
        inside -= 1
        return pcm

    monkeypatch.setattr(StreamingEnhancer, "process_pcm", slow)
    person = PercepNetFilter()
    await person.start(RATE)
    tasks = [asyncio.create_task(person.filter(voice.tobytes())) for _ in range(3)]
    for task in tasks[:2]:
        while not task.done():
            await asyncio.sleep(0.01)
            task.cancel()
    go_on.set()
    assert await tasks[2] == voice.tobytes()
    assert most == 1


async def test_settings_are_checked_before_a_call_begins() -> None:
    person = PercepNetFilter()
    with pytest.raises(ValueError, match="attenuation_limit_db is 500; allowed"):
        await person.process_frame(FilterUpdateSettingsFrame({"attenuation_limit_db": 500}))
    await person.process_frame(FilterUpdateSettingsFrame({"postfilter": None, "attenuation_limit_db": None}))
    await person.start(RATE)


@pytest.mark.parametrize("wrong", [{"attenuation_limit_db": 500}, {"postfilter": "no"}, {"model": "no.onnx"}])
def test_wrong_arguments_are_told_before_a_call(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match="allowed"):
        PercepNetFilter(**wrong)


async def test_a_rate_that_is_not_allowed_is_told_at_the_start() -> None:
    with pytest.raises(ValueError, match="4000 Hz; allowed"):
        await PercepNetFilter().start(4_000)
