"""Parts of an offer that aiortc does not read or answer as it should: video, sections that are rejected in the offer
itself, what is not bundled, some legal lines.

Players of WHEP and programs like OBS offer video along with the audio. aiortc answers each section or fails, so it is
told of the others only. Source: RFC 3264, 6; RFC 8829, 5.3.1; RFC 9143, 7.3.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MOST: Final = 16  # sections of an offer; a program that sends a camera in three sizes has two
_BEGINS: Final = re.compile(r"^(?=m=)", re.MULTILINE)
# Kind, port, profile and the first format
_MEDIA: Final = re.compile(r"m=(\w+) (\d{1,5})(?:/\d+)? (\S+) ([!-~]{1,64})(?!\S)")
_AUDIO: Final = re.compile(r"m=audio (\d+)")
_MID: Final = re.compile(r"^a=mid:([!#-'*+.0-9A-Z^-~-]+)\s*$", re.MULTILINE)
_BUNDLE: Final = re.compile(r"^a=group:BUNDLE\b([^\r\n]*)\r?\n", re.MULTILINE)
_TRANSPORT: Final = re.compile(
    r"^(?:c=|a=(?:candidate|end-of-candidates|fingerprint|ice-(?:options|pwd|ufrag)|rtcp|rtcp-mux|setup)(?=[:\s])).*\n",
    re.MULTILINE,
)
_KEYS: Final = re.compile(r"^a=(?:fingerprint|ice-(?:options|pwd|ufrag)|setup)(?=[:\s]).*\n", re.MULTILINE)

# Attributes of an extension, such as vad=on of RFC 6464, 4; of a source, one without a value (RFC 5576, 4.1)
_EXTENSION: Final = re.compile(r"^(a=extmap:\S+[ \t]+\S+)[ \t][^\r\n]*", re.MULTILINE)
_SOURCE: Final = re.compile(r"^a=ssrc:\d+ [^:\r\n]*(?:\r?\n|\Z)", re.MULTILINE)
_CODEC: Final = re.compile(r"^a=rtpmap:(\d+) [!-~]+", re.MULTILINE)
_FORMAT: Final = re.compile(r"^a=fmtp:(\d+)[^\r\n]*(?:\r?\n|\Z)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Refused:
    """A section that is not taken, and what the answer has to repeat of it."""

    place: int  # among all sections
    kind: str
    profile: str
    format: str
    codec: str  # the line of it, with its end
    mid: str
    carries: bool  # the transport of all sections is its own: it heads the bundle


def readable(sdp: str) -> str:
    """The offer without legal lines that aiortc's parser fails at and a call does without.

    Those are what follows the URI of an extension, sources' attributes without a value, and the parameters of types
    whose codec is not named, as it need not be for those of RFC 3551, 6.
    """
    head, *sections = _BEGINS.split(_SOURCE.sub("", _EXTENSION.sub(r"\1", sdp)))
    return "".join([head, *map(_without_unnamed, sections)])


def _without_unnamed(section: str) -> str:
    named = set(_CODEC.findall(section))
    return _FORMAT.sub(lambda line: line[0] if line[1] in named else "", section)


def without_refused(sdp: str) -> tuple[str, tuple[Refused, ...]]:
    """The offer less what is not taken of it, and that: video, and what has a port of 0 and no bundle.

    ValueError for too many sections, or one that cannot be answered.
    """
    head, *sections = _BEGINS.split(sdp)
    if len(sections) > MOST:
        raise ValueError(f"sdp may have {MOST} sections, not {len(sections)}")
    group = _BUNDLE.search(head)
    bundle = group[1].split() if group else []
    sections = _joined(sections, bundle)
    kept: list[str] = []
    found: list[tuple[int, str, re.Match[str], str]] = []
    for place, section in enumerate(sections):
        line = _MEDIA.match(section)
        if line is None or (line[1] != "video" and (int(line[2]) or _is_of(section, bundle))):
            kept.append(section)
        elif (named := _MID.search(section)) is None:
            raise ValueError("sdp: each section needs an a=mid of its own")
        else:
            found.append((place, section, line, named[1]))
    if not found:
        return "".join([head, *kept]), ()
    gone = {mid for *_, mid in found}
    rest = [mid for mid in bundle if mid not in gone]
    others = []
    for place, section, line, mid in found:
        codec = next((named[0] for named in _CODEC.finditer(section) if named[1] == line[4]), None)
        carries = bool(rest) and bundle[0] == mid
        others.append(
            Refused(place, line[1], line[3], line[4], f"{codec}\r\n" if codec else "", mid, carries)
        )
        if carries:
            transport = "".join(_TRANSPORT.findall(section))
            kept = [_carried(other, transport) if _is_of(other, rest) else other for other in kept]
    return "".join([_bundled(head, rest), *kept]), tuple(others)


def _joined(sections: Sequence[str], bundle: Sequence[str]) -> list[str]:
    """Sections of which those that have no transport of their own have that of the bundle's head (RFC 9143, 7.1.3)."""
    head = next((section for section in sections if _is_of(section, bundle[:1])), "")
    keys = "".join([*_KEYS.findall(head), "a=rtcp-mux\r\n"])
    return [
        f"{section.rstrip()}\r\n{keys}"
        if _is_of(section, bundle) and "a=ice-ufrag:" not in section
        else section
        for section in sections
    ]


def _is_of(section: str, mids: Sequence[str]) -> bool:
    mid = _MID.search(section)
    return mid is not None and mid[1] in mids


def _carried(section: str, transport: str) -> str:
    """A section of a bundle with the transport of its head, in place of its own or none (RFC 9143)."""
    first, _, rest = _TRANSPORT.sub("", section).partition("\n")
    return f"{first.replace(' 0 ', ' 9 ', 1)}\n{transport}{rest}"


def refused(sdp: str, others: Sequence[Refused]) -> str:
    """The answer to the rest of an offer, with its ``others`` refused in their places.

    One that carries the rest is taken, but nothing is sent in it: refused, it takes the others along in Chromium.
    """
    if not others:
        return sdp
    head, *sections = _BEGINS.split(sdp)
    audio = next(section for section in sections if section.startswith("m=audio"))
    for other in others:  # in order, so that each place is right when its turn comes
        port, transport = "0", "c=IN IP4 0.0.0.0\r\n"
        if other.carries:
            line = _AUDIO.match(audio)
            assert line is not None
            port, transport = line[1], "".join(_TRANSPORT.findall(audio)) + other.codec
            group = _BUNDLE.search(head)
            head = _bundled(head, [other.mid, *(group[1].split() if group else [])])
        first = f"m={other.kind} {port} {other.profile} {other.format}\r\n"
        sections.insert(other.place, f"{first}{transport}a=inactive\r\na=mid:{other.mid}\r\n")
    return "".join([head, *sections])


def bundled_as(sdp: str, offer: str) -> str:
    """The answer, with nothing in its bundle that the ``offer`` has not in its (RFC 9143, 7.3).

    aiortc has all in one, and a caller that follows then has one transport where the server waits for two.
    """
    head, *sections = _BEGINS.split(sdp)
    offered, answered = _BUNDLE.search(offer), _BUNDLE.search(head)
    both = [mid for mid in answered[1].split() if mid in offered[1].split()] if offered and answered else []
    return "".join([_bundled(head, both), *sections])


def _bundled(head: str, mids: Sequence[str]) -> str:
    line = " ".join(["a=group:BUNDLE", *mids]) + "\r\n" if mids else ""
    return _BUNDLE.sub(lambda _: line, head)  # as a text, it would be read for escapes
