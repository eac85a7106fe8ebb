"""Who is in a room of LiveKit: people with microphones, and sidecars with twins."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..claims import Feed
from .marks import SIDECAR, twins
from .sdk import rtc


@dataclass(frozen=True, slots=True)
class Person:
    """A participant who is to have a twin, which keeps the name that they had as it was made."""

    id: str  # identity
    name: str = field(compare=False)
    track: str  # SID of the microphone
    microphone: rtc.RemoteTrackPublication = field(compare=False)


def person(participant: rtc.RemoteParticipant) -> Person | None:
    """None for a sidecar, and for who has no microphone, or one that is encrypted from end to end."""
    if is_sidecar(participant):
        return None
    for publication in participant.track_publications.values():
        is_audio = publication.kind == rtc.TrackKind.KIND_AUDIO
        is_microphone = publication.source == rtc.TrackSource.SOURCE_MICROPHONE
        if is_audio and is_microphone and publication.encryption_type == rtc.EncryptionType.NONE:
            name = participant.name or participant.identity
            return Person(participant.identity, name, publication.sid, publication)
    return None


def is_sidecar(participant: rtc.Participant) -> bool:
    return SIDECAR in participant.attributes


def sidecars(participants: Iterable[rtc.Participant]) -> list[str]:
    """Names of those among them."""
    return [participant.attributes[SIDECAR] for participant in participants if is_sidecar(participant)]


def twins_there(participants: Iterable[rtc.Participant]) -> dict[Feed, str]:
    """Of whom they have twins that are published: the identities by the twins' tracks."""
    return {
        track: identity
        for participant in participants
        if is_sidecar(participant)
        for track, identity in twins(participant.attributes).items()
        if track in participant.track_publications
    }
