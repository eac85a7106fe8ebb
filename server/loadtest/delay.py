"""Measure what delay the server adds to a call: ``python -m server.loadtest.delay --seconds 60``.

Starts a server of its own, in another process, unless it is given a URL. The time is taken from an RTP packet
that the caller puts on the wire to the packet with the same audio time that comes back; both ends of it are in
the caller, so the figure includes the way through the loopback interface and the caller's own event loop.
Which packet answers which is told by the audio itself: the lag at which input and output correlate is the
algorithm's 1440 samples, what both encoders look ahead, and whole packets that one end sent before the other
was listening.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

from percepnet.framing import SAMPLE_RATE
from server.app import static_folder
from server.frames import PACKET
from server.media.opus import LOOKAHEAD, SPEECH_LOOKAHEAD

from .caller import Caller, Pcm

ALGORITHM: Final = 1440  # samples
ENCODERS_LOOKAHEAD: Final = (
    SPEECH_LOOKAHEAD + LOOKAHEAD
)  # samples; the caller's, which is aiortc's, and the server's
ALLOWED_MS: Final = 10.0  # beside the algorithm's 30 ms
ALLOWED_DRIFT_MS: Final = 1.0  # the delay is constant
SETTLING: Final = 1.0  # s at the start that are not counted: first packets, while both ends connect


@dataclass(frozen=True, slots=True)
class Delay:
    """Milliseconds that the server adds beside the algorithm; ``drift`` is the last sixth against the first."""

    seconds: float
    packets: int
    missing: int  # sent and never answered
    p50: float
    p99: float
    longest: float
    drift: float
    algorithm: float  # as heard: the lag of the audio, less what the encoders look ahead


class Wire:
    """Notes when the RTP packets of a caller leave and come."""

    def __init__(self, caller: Caller) -> None:
        self.sent: dict[int, float] = {}  # s, by the RTP timestamp less that of the first
        self.came: dict[int, float] = {}
        self._first: dict[str, int] = {}
        (transceiver,) = caller.connection.getTransceivers()
        send, handle = transceiver.sender.transport._send_rtp, transceiver.receiver._handle_rtp_packet
        loop = asyncio.get_running_loop()

        async def noted_send(data: bytes) -> None:
            if not 192 <= data[1] <= 223:  # RTCP (RFC 5761, 4)
                self._note("sent", self.sent, int.from_bytes(data[4:8], "big"), loop.time())
            await send(data)

        async def noted_handle(packet: Any, arrival_time_ms: int) -> None:
            self._note("came", self.came, packet.timestamp, loop.time())
            await handle(packet, arrival_time_ms=arrival_time_ms)

        transceiver.sender.transport._send_rtp = noted_send  # type: ignore[method-assign]
        transceiver.receiver._handle_rtp_packet = noted_handle  # type: ignore[method-assign]

    def _note(self, way: str, times: dict[int, float], timestamp: int, now: float) -> None:
        first = self._first.setdefault(way, timestamp)
        times[timestamp - first & 0xFFFFFFFF] = now


async def measure(url: str, pcm: Pcm, seconds: float) -> Delay:
    """Call the server at ``url`` with ``pcm``, mono at 48 kHz, for so long."""
    caller = Caller(url, pcm)
    wire = Wire(caller)
    async with caller:
        await asyncio.sleep(seconds)
    heard = caller.heard()
    late = lag(np.resize(pcm, len(heard)), heard)
    shift = round((late - ALGORITHM - ENCODERS_LOOKAHEAD) / PACKET) * PACKET
    settled = range(int(SETTLING * SAMPLE_RATE), max(wire.came) - PACKET * 5)
    asked = [time for time in sorted(wire.sent) if time + shift in settled]
    answered = [time for time in asked if time + shift in wire.came]
    delays = np.array([wire.came[time + shift] - wire.sent[time] for time in answered]) * 1e3
    sixth = max(1, len(delays) // 6)
    return Delay(
        seconds=seconds,
        packets=len(delays),
        missing=len(asked) - len(answered),
        p50=round(float(np.median(delays)), 2),
        p99=round(float(np.percentile(delays, 99)), 2),
        longest=round(float(delays.max()), 2),
        drift=round(float(np.median(delays[-sixth:]) - np.median(delays[:sixth])), 2),
        algorithm=round((late - shift - ENCODERS_LOOKAHEAD) * 1e3 / SAMPLE_RATE, 2),
    )


def lag(sent: Pcm, heard: Pcm) -> int:
    """Samples by which ``heard`` is behind ``sent``."""
    size = 2 * len(heard)
    product = np.fft.rfft(heard, size) * np.fft.rfft(sent, size).conj()
    peak = int(np.argmax(np.fft.irfft(product, size)))
    return peak if peak < size // 2 else peak - size


def read(path: Path) -> Pcm:
    """A recording as mono s16 at 48 kHz."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    with av.open(path) as file:
        frames = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
    frames += resampler.resample(None)
    return np.concatenate([np.asarray(frame.to_ndarray(), np.int16)[0] for frame in frames])


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    """A server in a process of its own; gives its URL."""
    command = [sys.executable, "-m", "percepnet", "serve", "--host", "127.0.0.1", "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    try:
        lines = []
        async for line in process.stderr:
            lines.append(line.decode())
            if "serves on http" in lines[-1]:
                yield lines[-1].split()[-1]
                return
        raise RuntimeError("the server did not start:\n" + "".join(lines))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def _main(arguments: argparse.Namespace) -> Delay:
    pcm = read(arguments.recording or static_folder() / "audio" / "sample.flac")
    if arguments.url:
        return await measure(arguments.url, pcm, arguments.seconds)
    async with served() as url:
        return await measure(url, pcm, arguments.seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m server.loadtest.delay", description=__doc__)
    parser.add_argument("--url", help="a running server; default: one of its own")
    parser.add_argument("--seconds", type=float, default=60, help="length of the call (default: 60)")
    parser.add_argument("recording", type=Path, nargs="?", help="what is said; default: the page's sample")
    result = asyncio.run(_main(parser.parse_args()))
    print(json.dumps(asdict(result)))
    sys.exit(result.p99 > ALLOWED_MS or abs(result.drift) > ALLOWED_DRIFT_MS or result.missing > 0)
