"""What clients and other sidecars read of a sidecar and its twins: attributes of the sidecar as a participant.

======================== ==================================================================
``percepnet.sidecar``    its name; who has this attribute is a sidecar and no person
``percepnet.twin.ALICE`` the SID of the track that is the twin of the participant whose identity is ``ALICE``
======================== ==================================================================

So in LiveKit's JavaScript SDK the twin of ``alice`` is found by

    for (const other of room.remoteParticipants.values()) {
      const twin = other.trackPublications.get(other.attributes[`percepnet.twin.${alice.identity}`]);
      if (twin) { twin.setSubscribed(true); }
    }

A twin's track has the source ``UNKNOWN``, so that nobody takes it for the sidecar's own microphone.
"""

from collections.abc import Mapping
from typing import Final

SIDECAR: Final = "percepnet.sidecar"
_TWIN: Final = "percepnet.twin."


def sidecar_attributes(name: str) -> dict[str, str]:
    """Of the sidecar ``name``."""
    return {SIDECAR: name}


def twin_attributes(identity: str, track: str) -> dict[str, str]:
    """That ``track`` is the twin of that participant; with "" that there is none."""
    return {_TWIN + identity: track}


def twins(attributes: Mapping[str, str]) -> dict[str, str]:
    """Of whom a sidecar has twins: the identities by their tracks."""
    found = {track: key.removeprefix(_TWIN) for key, track in attributes.items() if key.startswith(_TWIN)}
    found.pop("", None)
    return found
