"""Offers that went wrong: real ones of Chromium and aiortc, changed at random in ways that repeat with the seed."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

OFFERS: Final = [
    path.read_bytes().decode() for path in sorted((Path(__file__).parent / "offers").glob("*.sdp"))
]
EXTREMES: Final = (
    *("", "0", "-1", "1", "255", "256", "65535", "65536", "2147483648", "4294967296", "99999999999999999999"),
    *(
        "1e309",
        "nan",
        "NaN",
        "-0.0",
        "0x10",
        "٣",
        "\x00",
        "\ufeff",
        "\U0001f600",
        "%s%n",
        "../..",
        "a" * 5000,
    ),
    *(
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.251",
        "::1",
        "fe80::1%lo",
        "x.local",
        ".local",
        "localhost",
        "[",
        "opus/0",
    ),
)
VALUES: Final = (
    None,
    True,
    False,
    0,
    -1,
    10**400,
    1.5,
    "",
    "offer",
    "answer",
    "\x00",
    [],
    {},
    [[]],
    {"a": []},
)
LONGEST: Final = 100_000  # characters; a body may have less
KEYS: Final = ("sdp", "type", "enabled", "attenuation_limit_db", "postfilter", "id", "", "__proto__")
KINDS: Final = (
    "text/plain",
    "application/json; charset=utf-16",
    "multipart/form-data",
    "",
    "application/JSON",
)


def change_lines(chance: random.Random, sdp: str) -> str:
    """One change to the lines of an SDP."""
    lines = sdp.split("\r\n")
    at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(11):
        case 0:
            del lines[at]
        case 1:
            lines.insert(other, lines[at])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines[at] = change_bytes(chance, lines[at])
        case 4:
            lines[at] = change_value(chance, lines[at])
        case 5:
            lines.insert(at, chance.choice(chance.choice(OFFERS).split("\r\n")))
        case 6:
            lines[at:at] = [lines[other]] * chance.choice((2, 10, 100, 1000))
        case 7:
            del lines[at:other]
        case 8:
            kind = lines[at].partition(":")[0]
            lines = [line for line in lines if not line.startswith(kind or "a=")]
        case 9:
            section = chance.choice(
                ("m=video 9 UDP/TLS/RTP/SAVPF 96", "m=audio 9 RTP/AVP 0", "m=", "m=x 9 x x")
            )
            lines[at:at] = [section] * chance.choice((1, 1, 100))
        case 10:
            chance.shuffle(lines)
    return chance.choice(("\r\n",) * 8 + ("\n", "\r")).join(lines)


def change_bytes(chance: random.Random, text: str) -> str:
    characters = list(text)
    for _ in range(chance.choice((1, 1, 3, 20))):
        if characters:
            characters[chance.randrange(len(characters))] = chr(
                chance.choice((0, 10, 13, 32, 58, 255, 0x2028))
            )
    return "".join(characters)


def change_value(chance: random.Random, line: str) -> str:
    """An extreme in place of one of its words."""
    for separator in chance.sample((" ", ":", "=", "/", ";"), 5):
        parts = line.split(separator)
        if len(parts) > 1:
            parts[chance.randrange(len(parts))] = chance.choice(EXTREMES)
            return separator.join(parts)
    return chance.choice(EXTREMES)


def hostile(chance: random.Random) -> tuple[bytes, str]:
    """A body and its content type."""
    sdp = chance.choice(OFFERS)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 4, 16))):
        sdp = change_lines(chance, sdp)[:LONGEST]
    offer: Any = {"sdp": sdp, "type": "offer"}
    kind = "application/json"
    match chance.randrange(12):
        case 0:
            offer[chance.choice(KEYS)] = chance.choice(VALUES)
        case 1:
            offer = chance.choice((*VALUES, [offer], {"offer": offer}))
        case 2:
            offer.pop(chance.choice(("sdp", "type")))
        case 3:
            kind = chance.choice(KINDS)
    text = json.dumps(offer, ensure_ascii=chance.random() < 0.9)
    body = text.encode("utf-8", "surrogatepass")
    match chance.randrange(20):
        case 0:
            body = body[: chance.randrange(len(body))]
        case 1:
            body = bytes(byte ^ (chance.random() < 0.01) << chance.randrange(8) for byte in body)
        case 2:
            body = chance.randbytes(chance.choice((1, 100, 60_000)))
        case 3:
            body = chance.choice((b"[", b'{"sdp":', b"1", b'"\\ud800')) * chance.choice((1, 1000, 15_000))
    return body, kind


@dataclass
class Answers:
    """What was answered, and how fast."""

    statuses: Counter[int] = field(default_factory=Counter)
    refusals_ms: list[float] = field(default_factory=list)
    # of caller and server, as well as what went on beside
    refusals_cpu_ms: list[float] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)


async def throw(
    http: aiohttp.ClientSession, count: int, seed: int, progress: Callable[[int], object] = lambda done: None
) -> Answers:
    """Offer so many; calls that come of it are ended. Raises ``AssertionError`` with what must not be answered."""
    answers = Answers()
    for number in range(count):
        body, kind = hostile(random.Random(f"{seed} {number}"))
        began, began_cpu = time.perf_counter(), time.thread_time()
        async with http.post("/offer", data=body, headers={"Content-Type": kind}) as answer:
            text = await answer.text()
        took, took_cpu = time.perf_counter() - began, time.thread_time() - began_cpu
        answers.statuses[answer.status] += 1
        if answer.status == 201:
            async with http.delete(f"/calls/{json.loads(text)['id']}") as deleted:
                # 404: a call that cannot connect has ended by itself
                assert deleted.status in (204, 404), f"number {number}: DELETE {deleted.status}"
        else:
            assert 400 <= answer.status < 500, f"number {number}: {answer.status} {text}"
            reason = json.loads(text)["error"]
            assert isinstance(reason, str), f"number {number}: {text}"
            assert len(reason) > 5, f"number {number}: {text}"
            answers.reasons.add(reason[:40])
            answers.refusals_ms.append(1e3 * took)
            answers.refusals_cpu_ms.append(1e3 * took_cpu)
        progress(number + 1)
    return answers
