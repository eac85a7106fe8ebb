"""One call in bad weather, and what the weather has made of it: as the caller hears it, and as the server says."""

import asyncio
import math
import statistics
from dataclasses import dataclass, replace
from typing import Any, Final

import aiohttp
import numpy as np

from percepnet.framing import SAMPLE_RATE, Float, Pcm, from_pcm
from percepnet.resampling import resample
from server.loadtest.call import CallResult, MeasuredCall
from server.loadtest.hearing import UNDER_WAY, course, lag
from server.loadtest.options import Load
from server.loadtest.speech import Speech, decode
from server.media.opus import LOOKAHEAD, SPEECH_LOOKAHEAD

from .conditions import CALM, Weather

ATTEMPTS: Final = 3  # a server that is late for a moment refuses calls
SETTLED: Final = 1.0  # s after the first packet from which the delay counts
LAST: Final = 3.0  # s before the end in which it counts again

# by both encoders, samples
LOOKED_AHEAD: Final = {"percepnet": SPEECH_LOOKAHEAD + LOOKAHEAD, "echo": 2 * SPEECH_LOOKAHEAD}


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A call of ``seconds`` to the server ``name`` at ``url``. Equal seeds say the same and lose the same."""

    condition: str
    name: str
    url: str
    seconds: float
    seed: int
    both_ways: bool = False

    async def call(self, speech: Speech, http: aiohttp.ClientSession) -> MeasuredCall:
        """Make the call; enhancement is off, so that only the transport differs from what was said."""
        load = Load(
            url=self.url,
            weather=replace(Weather.parse(self.condition), both_ways=self.both_ways),
            enabled=False,
            listen=self.seconds,
            seconds=self.seconds,
            seed=self.seed,
        )
        for _ in range(ATTEMPTS):
            call = MeasuredCall(load, speech, 0, 0)
            await call.run(http, self.seconds)
            if call.outcome != "refused" or call.refusal is None:
                break
            await asyncio.sleep(call.refusal.retry_after or 1.0)
        return call

    def result(self, call: MeasuredCall) -> dict[str, Any]:
        """What came of the call, in plain types; takes a second or two of processor time."""
        found = call.result()
        heard, known = self._heard(call, found)
        first = round(CALM * SAMPLE_RATE)
        delays = self._delays(call, heard) if len(heard) > first else []
        rated = len(heard) >= first + SAMPLE_RATE
        return {
            "condition": self.condition,
            "server_name": self.name,
            "outcome": found.outcome,
            "reason": found.reason,
            "packets": {"sent": found.sent, "lost_on_purpose": found.lost, "returned": found.returned},
            "missing_percent": round(100 * float(1 - known[first:].mean()), 2) if rated else None,
            "concealed_percent": _concealed(call.report),
            "delay_before_ms": _median(delays, SETTLED, CALM),
            "delay_after_ms": _median(delays, self.seconds - LAST - UNDER_WAY, self.seconds),
            "delay_ms": [[round(at, 2), ms and round(ms, 1)] for at, ms in delays],
            "pesq_wb": _pesq(call, heard, first) if rated else None,
            "tardiness_ms": round(found.tardiness_ms, 1),
            "report": call.report,
        }

    def _heard(self, call: MeasuredCall, found: CallResult) -> tuple[Pcm, Any]:
        """All that should have come back while there was time for it; silence where nothing did."""
        samples = round((found.seconds - UNDER_WAY) * SAMPLE_RATE)
        return decode(call.tape.payloads, max(0, samples))

    def _delays(self, call: MeasuredCall, heard: Pcm) -> list[tuple[float, float | None]]:
        def said(start: int, samples: int) -> Pcm:
            return call.speech.said(call.first, start, samples)

        return course(call.tape.sent, call.tape.came, said, heard, LOOKED_AHEAD[self.name])


def _median(delays: list[tuple[float, float | None]], start: float, end: float) -> float | None:
    inside = [ms for at, ms in delays if start <= at <= end and ms is not None]
    return round(statistics.median(inside), 1) if inside else None


def _pesq(call: MeasuredCall, heard: Pcm, first: int) -> float | None:
    """Of what came back in the weather, against what was said; PESQ follows delays that change."""
    from percepnet.evaluation import SCORE_RATE, pesq_wb  # of the extra [eval], which a soak does without

    late = lag(call.speech.said(call.first, 0, len(heard)), heard) or 0
    sent = call.speech.said(call.first, first - late, len(heard) - first)
    value = pesq_wb(*(_at_rate(pcm, SCORE_RATE) for pcm in (sent, heard[first:])))
    return round(value, 2) if math.isfinite(value) else None


def _at_rate(pcm: Pcm, rate: int) -> Float:
    return resample(from_pcm(pcm)[np.newaxis], SAMPLE_RATE, rate)[0]


def _concealed(report: dict[str, Any]) -> float | None:
    """% of the audio in the weather that the server made up, as it says itself; None for one that does not."""
    network: dict[str, float] = report.get("network") or {}
    if "concealed_ms" not in network:
        return None
    whole = sum(network.get(f"{kind}_ms", 0.0) for kind in ("received", "recovered", "concealed", "missing"))
    return round(100 * network["concealed_ms"] / max(1.0, whole - 1000 * CALM), 2)
