"""How many calls one core carries within the bound, from what the enhancer and a packet's way cost here."""

import logging
import math
import os
import time
from collections.abc import Callable
from typing import Final

import numpy as np
import pylibsrtp
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket
from av import AudioFrame

from percepnet import Enhancer, native
from percepnet.framing import SAMPLE_RATE

from .frames import PACKET, TIME_BASE, FrameReader, FrameWriter
from .media.audiolevel import audio_level_dbov
from .media.decoding import Decoding
from .media.opus import MIME_TYPE, OpusEncoder, OpusOptions
from .overload import BOUND

PACKET_TIME: Final = PACKET / SAMPLE_RATE  # s
# Times what media_time() measures: the rest is the event loop, ICE, RTCP and the kernel. At 16 to 20 calls the event
# loop's thread took 0.48 to 0.55 ms for a packet where the parts take 0.13.
WHOLE_WAY: Final = 4.0
MARGIN: Final = 0.8  # of the core: the rest is for set-ups, figures and the noise of the measurement
REPEATS: Final = 7  # of each step, at most
LONGEST: Final = 0.8  # s for all of it
PACKETS: Final = 50  # that go the media's way

logger = logging.getLogger(__name__)


def rated_calls(per_batch: float, per_call: float, media: float, share: float = 1.0) -> int:
    """Calls that a ``share`` of a core carries if a batch of n costs ``per_batch + n · per_call`` seconds; at least 1.

    What waits while one batch is computed is the next, so a packet waits for one batch at most and is
    computed in another: both must be over within ``BOUND``. Batches may then take ``BOUND / 2`` each, that is
    ``PACKET_TIME / (BOUND / 2)`` = 4 of them in the time of a packet, and the core has to bear
    4 · per_batch + calls · (per_call + media) ≤ margin · share · PACKET_TIME, where ``media`` are the seconds for a
    packet's way in and out.
    """
    batches = PACKET_TIME / (BOUND / 2)
    room = MARGIN * share * PACKET_TIME - batches * per_batch
    return max(1, int(room / (per_call + media)))


def media_time(clock: Callable[[], float] = time.thread_time) -> float:
    """Seconds of the core for a packet's way in and out: parts of it done here, and ``WHOLE_WAY``.

    Those are RTP, SRTP and Opus both ways, and audio from frames to arrays and back, of noise.
    """
    codec = RTCRtpCodecParameters(MIME_TYPE, SAMPLE_RATE, 2, payloadType=96)
    key = os.urandom(30)
    policies = [
        pylibsrtp.Policy(key=key, ssrc_type=direction)
        for direction in (pylibsrtp.Policy.SSRC_ANY_OUTBOUND, pylibsrtp.Policy.SSRC_ANY_INBOUND)
    ]
    outbound, inbound = map(pylibsrtp.Session, policies)
    frames: list[AudioFrame] = []
    decoding, encoder, reader = Decoding(frames.append), OpusEncoder(OpusOptions()), FrameReader()
    frame = AudioFrame(format="s16", layout="mono", samples=PACKET)
    noise = np.random.default_rng(0).normal(0, 1000, PACKET).astype(np.int16)
    frame.planes[0].update(noise.tobytes())
    frame.sample_rate, frame.time_base = SAMPLE_RATE, TIME_BASE
    writer = FrameWriter(frame)
    cost = math.inf
    for n in range(PACKETS):
        frame.pts = n * PACKET
        began = clock()
        payloads, timestamp = encoder.encode(frame, audio_level_dbov(frame))
        packet = RtpPacket(96, sequence_number=n, timestamp=timestamp, ssrc=1, payload=payloads[0])
        received = RtpPacket.parse(inbound.unprotect(outbound.protect(packet.serialize())))
        decoding.decode(codec, received.sequence_number, received.timestamp, received.payload, 0.0)
        frame = writer.frame(reader.push(frames.pop())[0])
        cost = min(cost, clock() - began)
    return WHOLE_WAY * cost


def measured(
    enhancer: Enhancer,
    share: float = 1.0,
    clock: Callable[[], float] = time.thread_time,
    media: Callable[[], float] = media_time,
) -> int:
    """Rate the enhancer with steps of noise, in less than a second; all its streams are as new after it.

    ``share``: of a core's time that there is for it, more than 0 and at most 1.
    Processor time of the thread, so that waiting for the core does not count; and the shortest of several
    steps spread over the time, as a neighbour on the core and cold caches only ever make them longer.
    """
    sizes = sorted({1, max(1, min(8, enhancer.streams // 2)), min(16, enhancer.streams)})
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.05, (sizes[-1], PACKET)).astype(np.float32)
    end = time.monotonic() + LONGEST
    costs = [math.inf] * len(sizes)
    for _ in range(REPEATS):
        for n, size in enumerate(sizes):
            began = clock()
            enhancer.process(noise[:size], streams=range(size))
            costs[n] = min(costs[n], clock() - began)
        if time.monotonic() > end:
            break
    enhancer.reset()
    per_batch, per_call = _line(sizes, costs)
    way = media()
    calls = rated_calls(per_batch, per_call, way, share)
    logger.info(
        "rated at %d calls: a batch costs %.2f ms (signal processing: %s), each call in it %.2f ms, "
        "and a packet's way in and out %.2f ms",
        calls,
        per_batch * 1e3,
        native.implementation(),
        per_call * 1e3,
        way * 1e3,
    )
    return calls


def _line(sizes: list[int], costs: list[float]) -> tuple[float, float]:
    """Costs (s) as a part per batch and one per call, neither negative."""
    if len(sizes) == 1:
        return 0.0, costs[0]
    slope, offset = np.polyfit(sizes, costs, 1)
    per_call = max(0.0, float(slope))
    return max(0.0, float(offset)), per_call
