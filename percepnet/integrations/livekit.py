"""Noise suppression for LiveKit: a frame processor of its audio streams. ``pip install '.[livekit]'``

With LiveKit's SDK, ``track`` being a participant's:

>>> from livekit import rtc
>>> from percepnet.integrations.livekit import PercepNetProcessor
>>> def quiet(track: rtc.Track) -> rtc.AudioStream:
...     processor = PercepNetProcessor(attenuation_limit_db=30)
...     return rtc.AudioStream(track, num_channels=1, frame_size_ms=20, noise_cancellation=processor)

With LiveKit Agents, the processor goes into ``room_io.AudioInputOptions``, as ``noise_cancellation`` there. During the
call it is turned off and on without a click:

>>> processor = PercepNetProcessor()
>>> processor.enabled = False
"""

from pathlib import Path

import numpy as np

from percepnet.enhancer import check_controls
from percepnet.extras import needs
from percepnet.framing import SAMPLE_RATE
from percepnet.streaming import StreamingEnhancer

with needs("livekit", "this plug-in needs", "LiveKit"):
    from livekit.rtc import AudioFrame, FrameProcessor


class PercepNetProcessor(FrameProcessor[AudioFrame]):
    """Takes the noise out of mono frames of any rate from 8 to 192 kHz and any length; each comes back as long.

    What comes back is late by 40 ms at 48 kHz and 45 ms at 24 kHz, always the same (``latency`` of
    :class:`percepnet.StreamingEnhancer`). All processors share one model.

    LiveKit calls it on its event loop, which then stands still for some 2 ms on a slow core. That is a tenth of the
    loop's time with frames of 20 ms or more, but two tenths with the 10 ms that streams have unless asked for others:
    the network takes 20 ms at a time. Frames of two channels raise ValueError, whereupon LiveKit logs a warning and
    passes them on as they are.
    """

    def __init__(
        self,
        *,
        model: str | Path | None = None,
        postfilter: bool = True,
        attenuation_limit_db: float | None = None,
    ) -> None:
        self._model = model
        self._postfilter = postfilter
        self._attenuation_limit_db = attenuation_limit_db
        self._suppressing = True
        self._track = ""  # whose voice it is
        # the model is loaded before the call
        self._voice: StreamingEnhancer | None = self._begun(SAMPLE_RATE)

    @property
    def enabled(self) -> bool:
        """True, also after it was set to False: then audio comes back dry, and as late.

        LiveKit asks a processor that says False for nothing, and the voice would jump by the delay.
        """
        return True

    @enabled.setter
    def enabled(self, value: bool) -> None:
        check_controls(enabled=value)
        self._suppressing = value
        if self._voice is not None:
            self._voice.set(enabled=value)

    @property
    def suppressing(self) -> bool:
        """What ``enabled`` was set to."""
        return self._suppressing

    def _on_stream_info_updated(
        self, *, room_name: str, participant_identity: str, publication_sid: str
    ) -> None:
        if publication_sid != self._track:
            self._track = publication_sid
            self._close()  # nothing of one voice may be heard in another

    def _process(self, frame: AudioFrame) -> AudioFrame:
        if frame.num_channels != 1:
            raise ValueError(
                f"a frame has {frame.num_channels} channels; allowed: 1, with num_channels=1 of the stream"
            )
        if self._voice is None or self._voice.sample_rate != frame.sample_rate:
            self._voice = self._begun(frame.sample_rate)
        pcm = self._voice.process_pcm(np.frombuffer(frame.data, np.int16))
        return AudioFrame(
            pcm.tobytes(), frame.sample_rate, 1, frame.samples_per_channel, userdata=frame.userdata
        )

    def _close(self) -> None:
        self._voice = None

    def _begun(self, sample_rate: int) -> StreamingEnhancer:
        voice = StreamingEnhancer(
            sample_rate,
            model=self._model,
            postfilter=self._postfilter,
            attenuation_limit_db=self._attenuation_limit_db,
        )
        voice.set(enabled=self._suppressing)
        voice.reset()  # that holds at once
        return voice
