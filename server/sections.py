"""Video of an offer: left out of what aiortc sees, and refused in the answer.

Players of WHEP and programs like OBS offer it along with the audio. aiortc answers each section or fails, so it is
told of the others only. Source: RFC 8829, 5.3.1; RFC 9143, 7.3.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MOST: Final = 16  # sections of an offer; a program that sends a camera in three sizes has two
_BEGINS: Final = re.compile(r"^(?=m=)", re.MULTILINE)
_VIDEO: Final = re.compile(r"m=video \d+(?:/\d+)? (\S+) (\d+)")
_AUDIO: Final = re.compile(r"m=audio (\d+)")
_MID: Final = re.compile(r"^a=mid:([!#-'*+.0-9A-Z^-~-]+)\s*$", re.MULTILINE)
_BUNDLE: Final = re.compile(r"^a=group:BUNDLE\b([^\r\n]*)", re.MULTILINE)
_TRANSPORT: Final = re.compile(
    r"^(?:c=|a=(?:candidate|end-of-candidates|fingerprint|ice-\w+|rtcp|rtcp-mux|setup)\b).*\n", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Video:
    """A section of it, and what the answer has to repeat."""

    place: int  # among all sections
    profile: str
    format: str
    codec: str  # the line of it, with its end
    mid: str
    carries: bool  # the transport of all sections is its own: it heads the bundle


def without_video(sdp: str) -> tuple[str, tuple[Video, ...]]:
    """The offer less its video, and that; ValueError for too many sections, or one that cannot be answered."""
    head, *sections = _BEGINS.split(sdp)
    if len(sections) > MOST:
        raise ValueError(f"sdp may have {MOST} sections, not {len(sections)}")
    group = _BUNDLE.search(head)
    bundle = group[1].split() if group else []
    kept, videos = [head], []
    for place, section in enumerate(sections):
        if (line := _VIDEO.match(section)) is None:
            kept.append(section)
            continue
        if (mid := _MID.search(section)) is None:
            raise ValueError("sdp: each section needs an a=mid of its own")
        profile, payload = line.groups()
        codec = re.search(rf"^a=rtpmap:{payload} [!-~]+", section, re.MULTILINE)
        lines = f"{codec[0]}\r\n" if codec else ""
        videos.append(Video(place, profile, payload, lines, mid[1], bundle[:1] == [mid[1]]))
    gone = {video.mid for video in videos}
    if gone:
        kept[0] = _bundled(head, [mid for mid in bundle if mid not in gone])
    return "".join(kept), tuple(videos)


def refused(sdp: str, videos: Sequence[Video]) -> str:
    """The answer to the rest of an offer, with its ``videos`` refused in their places.

    One that carries the rest is taken, but nothing is sent in it: refused, it takes the others along in Chromium.
    """
    if not videos:
        return sdp
    head, *sections = _BEGINS.split(sdp)
    audio = next(section for section in sections if section.startswith("m=audio"))
    for video in videos:  # in order, so that each place is right when its turn comes
        port, transport = "0", "c=IN IP4 0.0.0.0\r\n"
        if video.carries:
            line = _AUDIO.match(audio)
            assert line is not None
            port, transport = line[1], "".join(_TRANSPORT.findall(audio)) + video.codec
            group = _BUNDLE.search(head)
            head = _bundled(head, [video.mid, *(group[1].split() if group else [])])
        lines = (
            f"m=video {port} {video.profile} {video.format}\r\n{transport}a=inactive\r\na=mid:{video.mid}\r\n"
        )
        sections.insert(video.place, lines)
    return "".join([head, *sections])


def _bundled(head: str, mids: Sequence[str]) -> str:
    line = " ".join(["a=group:BUNDLE", *mids])
    return _BUNDLE.sub(lambda _: line, head)  # as a text, it would be read for escapes
