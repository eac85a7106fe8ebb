"""One measured call: made, held, and looked at afterwards."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import aiohttp

from percepnet.framing import SAMPLE_RATE
from server.frames import PACKET
from server.waiting import happens
from server.weather.relay import Relay

from .hearing import Delays, delays, enhancement, is_enhanced, lag, percentiles, tardiness
from .line import Line, Refused
from .options import Load
from .speech import Speech, decode
from .wire import PackedSender, Recorder, Tape, Wire

# samples of what comes back, without which audio is too short to be recognised
LEAST_HEARD: Final = 3 * SAMPLE_RATE
LEARNING: Final = SAMPLE_RATE  # at their beginning: the network has heard too little to judge it
REFUSALS: Final = (429, 503)  # status
CONNECT_TIME: Final = 15.0  # s from the offer to the first packet
DEAD: Final = 3.0  # s at a call's end in which nothing came back: its server is no longer
# of so many callers (not of a single one) one never toggles: it shows whether calls are enhanced
STEADY: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class CallResult:
    """What became of a call. ``outcome``: ok, refused (429, 503), failed (never connected), broken (ended early)."""

    caller: int
    number: int  # of the caller's calls
    outcome: str
    reason: str = ""
    began: float  # s of time.monotonic()
    seconds: float = 0.0  # from the first packet that came to the end
    setup_ms: float | None = None  # from the offer to the first packet that came
    sent: int = 0  # packets, those lost on purpose included
    lost: int = 0  # on purpose
    returned: int = 0
    tardiness_ms: float = 0.0  # p99 of what packets left late by
    delays: Delays | None = None  # None for calls too short to recognise their audio
    pauses_db: float | None = None  # change of level; None where not checked
    speech_db: float | None = None
    toggles: int = 0

    @property
    def enhanced(self) -> bool | None:
        """None where it was not checked."""
        if self.pauses_db is None or self.speech_db is None:
            return None
        return is_enhanced(self.pauses_db, self.speech_db)

    def report(self, start: float) -> dict[str, Any]:
        """In plain types; times since ``start``, s of ``time.monotonic()``."""
        known = self.delays
        return {
            "caller": self.caller,
            "call": self.number,
            "outcome": self.outcome,
            "reason": self.reason,
            "began_s": round(self.began - start, 3),
            "seconds": round(self.seconds, 3),
            "setup_ms": _rounded(self.setup_ms),
            "packets": {"sent": self.sent, "lost_on_purpose": self.lost, "returned": self.returned},
            "missing_percent": _rounded(known.missing_percent, 4) if known else None,
            "delay_ms": percentiles(known.ms) if known else None,
            "drift_ms": _rounded(known.drift_ms, 2) if known else None,
            "enhanced": self.enhanced,
            "pauses_db": _rounded(self.pauses_db),
            "speech_db": _rounded(self.speech_db),
            "toggles": self.toggles,
        }


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)


@dataclass(slots=True)
class MeasuredCall:
    """Call number ``number`` of caller ``caller``. :meth:`run` makes it, :meth:`result` listens to what came."""

    load: Load
    speech: Speech
    caller: int
    number: int
    live: bool = False  # it hears something
    outcome: str = "failed"  # as in CallResult
    refusal: Refused | None = None
    over: float | None = None  # s of time.monotonic(), when it hung up
    first: int = 0  # packet of the speech that it began with
    tape: Tape = field(default_factory=Tape)
    report: dict[str, Any] = field(default_factory=dict)  # what the server said of it at its end, if it did
    _reason: str = ""
    _began: float = 0.0
    _offered: float = 0.0
    _toggles: int = 0
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, http: aiohttp.ClientSession, seconds: float) -> None:
        """Call, talk until ``seconds`` from now or until :meth:`hang_up`, end. Errors are outcomes."""
        chance = Random(f"{self.load.seed} {self.caller} {self.number}")
        self._began = time.monotonic()
        self.first = chance.randrange(len(self.speech.payloads))
        relay = None
        if not self.load.weather.is_fair:
            relay = Relay(self.load.weather, str(chance.random()), self.tape)
        line = Line(self.load.url, options={"enabled": self.load.enabled}, relay=relay)
        talker = PackedSender(line.transceiver.sender, self.speech, self.first, Random(chance.random()))
        Recorder(line.transceiver.receiver, self.tape)
        Wire(line.transceiver, self.tape, listen=round(self.load.listen * SAMPLE_RATE))
        line.connection.on("connectionstatechange", lambda: self._watch(line))
        try:
            if self.load.control_channel:
                line.connection.createDataChannel("control")
            await line.call(http)
            async with asyncio.timeout(CONNECT_TIME):
                await self.tape.first.wait()
            if not self.tape.came.times:
                raise ConnectionError("closed before anything came back")
            self.live, self.outcome = True, "ok"
            await self._talk(http, line, self._began + seconds, chance)
        except Refused as error:
            self.refusal, self._reason = error, str(error)
            self.outcome = "refused" if error.status in REFUSALS else "failed"
        except TimeoutError:
            self._reason = f"no answer within {CONNECT_TIME:g} s"
            self.outcome = "broken" if self.live else "failed"
        except Exception as error:  # what aiortc raises is not documented
            self._reason = f"{type(error).__name__}: {error}"
            self.outcome = "broken" if self.live else "failed"
        finally:
            self.live = False
            self._offered = line.offered
            self.over = time.monotonic()
            await talker.stop()
            await line.hang_up()

    def hang_up(self) -> None:
        """Ask :meth:`run` to come to its end, wherever it is."""
        self._ended.set()
        self.tape.first.set()

    async def _talk(self, http: aiohttp.ClientSession, line: Line, until: float, chance: Random) -> None:
        steady = self.caller % STEADY == 0 and self.load.calls > 1
        mean = None if steady else self.load.toggle
        enabled = True
        while (left := until - time.monotonic()) > 0:
            pause = min(left, chance.uniform(0.5, 1.5) * mean) if mean else left
            if await happens(self._ended, pause):
                break
            if mean and pause < left:
                enabled = not enabled
                async with http.patch(f"{line.url}/calls/{line.id}", json={"enabled": enabled}) as response:
                    self._toggles += response.status == 200
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with http.get(f"{line.url}/calls/{line.id}") as response:
                self.report = await response.json() if response.status == 200 else {}
        silent = time.monotonic() - self.tape.came.at[-1]
        if line.is_over:
            self.outcome = "broken"
            self._reason = f"ended by the server {until - time.monotonic():.1f} s early"
        elif silent > DEAD + self.load.weather.blackout:
            self.outcome = "broken"
            self._reason = f"nothing came back in the last {silent:.1f} s"

    def _watch(self, line: Line) -> None:
        if line.is_over:
            self.hang_up()

    def result(self) -> CallResult:
        """Decode what was kept, and judge it; takes some 0.1 s of processor time."""
        tape = self.tape
        assert self.over is not None
        answered = tape.came.at[0] if tape.came.at else None
        late, change = self._listen()
        return CallResult(
            caller=self.caller,
            number=self.number,
            outcome=self.outcome,
            reason=self._reason,
            began=self._began,
            seconds=self.over - answered if answered is not None else 0.0,
            setup_ms=(answered - self._offered) * 1e3 if answered is not None else None,
            sent=len(tape.sent.times),
            lost=len(tape.lost),
            returned=len(set(tape.came.times)),
            tardiness_ms=tardiness(tape.sent),
            delays=delays(tape.sent, tape.lost, tape.came, late) if answered is not None else None,
            pauses_db=change and change[0],
            speech_db=change and change[1],
            toggles=self._toggles,
        )

    def _listen(self) -> tuple[int | None, tuple[float, float] | None]:
        """By how many samples what came is late, and how its level has changed, as far as that can be told."""
        samples = min(
            round(self.load.listen * SAMPLE_RATE), max(self.tape.came.times, default=-PACKET) + PACKET
        )
        if samples < LEAST_HEARD:
            return None, None
        heard, known = decode(self.tape.payloads, samples)
        late = lag(self.speech.said(self.first, 0, samples), heard)
        if late is None or self._toggles:
            return late, None
        sent = self.speech.said(self.first, LEARNING - late, samples - LEARNING)
        return late, enhancement(sent, heard[LEARNING:], known[LEARNING:])
