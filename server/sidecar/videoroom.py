"""The words of Janus's VideoRoom plugin (1.0 and later): joining, listing, subscribing to a feed, publishing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from aiortc import RTCSessionDescription

from .claims import Feed
from .janus import Handle, Listener, Session
from .transport import Message

PLUGIN: Final = "janus.plugin.videoroom"


@dataclass(frozen=True, slots=True)
class Publisher:
    """Somebody who publishes audio."""

    id: Feed  # a number unless Janus is configured with string_ids
    display: str
    mid: str  # of the audio
    description: str  # of the audio; what tells a twin

    @classmethod
    def listed(cls, data: Message) -> tuple[list[Self], list[Feed]]:
        """Of an event: those who publish audio, and those who publish, but none."""
        found, silent = [], []
        for publisher in data.get("publishers", ()):
            audio = [
                s for s in publisher.get("streams", ()) if s["type"] == "audio" and not s.get("disabled")
            ]
            if audio:
                description = audio[0].get("description", "")
                display = publisher.get("display", "")
                found.append(cls(publisher["id"], display, audio[0]["mid"], description))
            else:
                silent.append(publisher["id"])
        return found, silent


class VideoRoom:
    """One room of the Janus that ``session`` is with; ``pin`` where the room asks for one."""

    def __init__(self, session: Session, room: Feed, pin: str | None) -> None:
        self.room = room
        self._session = session
        self._access = {"pin": pin} if pin else {}
        self._private_id: int | None = None  # shows that subscriptions come from somebody in the room

    async def attach(self, listener: Listener) -> Handle:
        return await self._session.attach(PLUGIN, listener)

    async def join(self, handle: Handle, display: str) -> Message:
        """Be in the room without publishing; the answer lists who publishes, and events follow."""
        joined = await self._join(handle, ptype="publisher", display=display)
        self._private_id = joined.get("private_id")
        return joined

    async def names(self, handle: Handle) -> list[str]:
        """Display names of all who are in the room, whether they publish or not."""
        data, _ = await handle.ask({"request": "listparticipants", "room": self.room})
        return [participant.get("display", "") for participant in data["participants"]]

    async def subscribe(self, handle: Handle, publisher: Publisher) -> RTCSessionDescription:
        """Janus's offer of a publisher's audio, to be answered with :meth:`start`."""
        _, jsep = await handle.ask(
            {
                "request": "join",
                "ptype": "subscriber",
                "room": self.room,
                "streams": [{"feed": publisher.id, "mid": publisher.mid}],
                **({"private_id": self._private_id} if self._private_id is not None else {}),
                **self._access,
            }
        )
        return _description(jsep, "offer")

    async def start(self, handle: Handle, answer: RTCSessionDescription) -> None:
        await handle.ask({"request": "start"}, _jsep(answer))

    async def publish(
        self, handle: Handle, display: str, description: str, mid: str, offer: RTCSessionDescription
    ) -> tuple[Feed, RTCSessionDescription]:
        """Join as a publisher of the audio section ``mid`` of ``offer``; its id, and Janus's answer."""
        joined = await self._join(handle, ptype="publisher", display=display)
        _, jsep = await handle.ask(
            {"request": "publish", "descriptions": [{"mid": mid, "description": description}]}, _jsep(offer)
        )
        return joined["id"], _description(jsep, "answer")

    async def _join(self, handle: Handle, **words: str) -> Message:
        joined, _ = await handle.ask({"request": "join", "room": self.room, **words, **self._access})
        return joined


def _jsep(description: RTCSessionDescription) -> Mapping[str, Any]:
    return {"type": description.type, "sdp": description.sdp, "trickle": False}  # all candidates are in it


def _description(jsep: Message, kind: str) -> RTCSessionDescription:
    if jsep.get("type") != kind:
        raise ValueError(f"Janus must send an SDP {kind}, not {jsep.get('type')}")
    return RTCSessionDescription(jsep["sdp"], kind)
