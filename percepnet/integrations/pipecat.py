"""Noise suppression for Pipecat: an audio filter of its transports. ``pip install '.[pipecat]'``

>>> from percepnet.integrations.pipecat import PercepNetFilter
>>> from pipecat.transports.base_transport import TransportParams
>>> params = TransportParams(
...     audio_in_enabled=True,
...     audio_in_filter=PercepNetFilter(attenuation_limit_db=30),
... )

``params`` goes to any transport, such as ``DailyTransport`` or ``SmallWebRTCTransport``. A frame turns the filter off
and on during the call, without a click:

>>> from pipecat.frames.frames import FilterEnableFrame
>>> off = FilterEnableFrame(enable=False)  # await task.queue_frame(off)
"""

import asyncio
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np

from percepnet.enhancer import check_controls
from percepnet.extras import needs
from percepnet.network import Network
from percepnet.streaming import StreamingEnhancer

with needs("pipecat", "this plug-in needs", "Pipecat"):
    from pipecat.audio.filters.base_audio_filter import BaseAudioFilter
    from pipecat.frames.frames import FilterControlFrame, FilterEnableFrame, FilterUpdateSettingsFrame

SETTINGS: Final = ("enabled", "attenuation_limit_db", "postfilter")


class PercepNetFilter(BaseAudioFilter):
    """Takes the noise out of mono audio of 8 to 192 kHz, in chunks of any size; each chunk comes back as long.

    Raises what :class:`percepnet.Enhancer` raises for these arguments.

    What comes back is late by 40 ms at 48 kHz and 48 ms at 16 kHz, always the same (``latency`` of
    :class:`percepnet.StreamingEnhancer`). The event loop does not wait: the work is done in a thread. All filters
    share one model.

    ``FilterEnableFrame`` turns the suppression off and on; ``FilterUpdateSettingsFrame`` takes ``enabled``,
    ``attenuation_limit_db`` (0…100, or None) and ``postfilter``.
    """

    def __init__(
        self,
        *,
        model: str | Path | None = None,
        postfilter: bool = True,
        attenuation_limit_db: float | None = None,
    ) -> None:
        check_controls(postfilter=postfilter, attenuation_limit_db=attenuation_limit_db)
        Network(model)  # read now, not in the call
        self._model = model
        self._settings: dict[str, Any] = {
            "enabled": True,
            "attenuation_limit_db": attenuation_limit_db,
            "postfilter": postfilter,
        }
        self._voice: StreamingEnhancer | None = None
        self._one_at_a_time = asyncio.Lock()
        self._working = threading.Lock()  # a filter() that is cancelled leaves its thread behind for some ms

    async def start(self, sample_rate: int) -> None:
        """Begin a call; raises ValueError for a rate outside of 8 000…192 000 Hz."""
        self._one_at_a_time = asyncio.Lock()  # of the event loop of this call
        async with self._one_at_a_time:
            voice = await asyncio.to_thread(StreamingEnhancer, sample_rate, model=self._model)
            voice.set(**self._settings)
            voice.reset()  # the settings hold at once
            self._voice = voice

    async def stop(self) -> None:
        """End the call; what was heard is forgotten, settings stay."""
        async with self._one_at_a_time:
            self._voice = None

    async def process_frame(self, frame: FilterControlFrame) -> None:
        """Turn the filter off or on, or change settings; raises ValueError or TypeError for others than these."""
        match frame:
            case FilterEnableFrame():
                await self._set({"enabled": frame.enable})
            case FilterUpdateSettingsFrame():
                await self._set(dict(frame.settings))

    async def filter(self, audio: bytes) -> bytes:
        """The next samples, 16 bits each; as many come back. Before ``start`` they come back as they are.

        Raises ValueError for half a sample.
        """
        if len(audio) % 2:
            raise ValueError(f"audio has {len(audio)} bytes; allowed: two for each sample")
        async with self._one_at_a_time:
            if self._voice is None:
                return audio
            return await asyncio.to_thread(self._filtered, self._voice, audio)

    def _filtered(self, voice: StreamingEnhancer, audio: bytes) -> bytes:
        with self._working:
            return voice.process_pcm(np.frombuffer(audio, np.int16)).tobytes()

    async def _set(self, settings: dict[str, Any]) -> None:
        if unknown := settings.keys() - set(SETTINGS):
            raise ValueError(f"settings are {', '.join(sorted(unknown))}; allowed: {', '.join(SETTINGS)}")
        settings = {
            name: value
            for name, value in settings.items()
            if value is not None or name == "attenuation_limit_db"
        }
        check_controls(**settings)  # before there is a voice, too
        async with self._one_at_a_time:
            if self._voice is not None:
                with self._working:
                    self._voice.set(**settings)
            self._settings |= settings
