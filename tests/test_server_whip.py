"""WHIP in, WHEP out and rooms of two, between real peers of aiortc over loopback."""

import contextlib
import re

import numpy as np
import pytest
from caller import Caller, RecordedTrack
from calling import given_back, holdings, level_db, packets, serving, unlikeness_db, until
from whip_peers import listening, publishing

from percepnet.framing import Float, Pcm
from server import broadcast, calls, whipclient
from server.call import MOST_CANDIDATES
from server.loadtest.hearing import lag
from server.media import closing, opus, sender
from server.whipclient import EndpointError

SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}


async def test_listeners_hear_the_publisher_enhanced_and_encoded_once(
    speech: Pcm, noisy: Float, clean: Float, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = []

    class Counted(broadcast.OpusEncoder):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            encoders.append(self)

    monkeypatch.setattr(broadcast, "OpusEncoder", Counted)
    before = holdings()
    async with serving() as server:
        async with publishing(server.http, "desk", speech):
            async with (
                listening(server.http, "desk") as (one, session),
                listening(server.http, "desk") as (other, _),
            ):
                heard = await one.has(300)
                await other.has(100)
                report = await (await server.http.get(session.resource)).json()
                stats = await (await server.http.get("/stats")).json()
            voice = server.calls.rooms._rooms["desk"].voice
            await until(lambda: not voice.listeners, "nobody is served any more")
        assert (report["role"], report["room"], report["state"]) == ("listener", "desk", "connected")
        assert (stats["workers"][0]["calls"], stats["workers"][0]["listeners"]) == (1, 2)
        await until(lambda: not len(server.calls), "the end of all calls")
        assert not len(server.calls.rooms)
    assert len(encoders) == 1
    late = lag(np.resize(speech, len(heard)), heard)
    assert late is not None
    sent = np.resize(np.roll((clean * 32768).astype(np.int16), late), len(heard))[24_000:]
    raw = np.resize(np.roll(speech, late), len(heard))[24_000:]
    assert unlikeness_db(sent, heard[24_000:]) < unlikeness_db(sent, raw) - 1
    del session, _  # they hold connections
    await given_back(before)


async def test_listeners_count_as_a_part_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop has work with them; and a room that can be published in can be listened to."""
    monkeypatch.setattr(calls, "LISTENERS", 2)
    silence = np.zeros(960, np.int16)
    async with serving(rated_calls=2) as server, contextlib.AsyncExitStack() as open_calls:
        await open_calls.enter_async_context(publishing(server.http, "desk", silence))
        for _ in range(2):
            await open_calls.enter_async_context(listening(server.http, "desk"))
        with pytest.raises(EndpointError, match=r"503.*takes 2 calls at a time, 2 listeners for one"):
            async with publishing(server.http, "office", silence):
                pass
        await open_calls.enter_async_context(listening(server.http, "desk"))
        with pytest.raises(EndpointError, match=r"503.*is full: 1 calls and 3 listeners"):
            async with listening(server.http, "desk"):
                pass


async def test_a_second_publisher_is_refused_and_a_later_one_goes_on_where_the_first_ended(
    speech: Pcm, hiss: Pcm
) -> None:
    async with serving() as server:
        async with publishing(server.http, "desk", speech):
            with pytest.raises(EndpointError, match=r"409.*has a publisher; allowed is one"):
                async with publishing(server.http, "desk", hiss):
                    pass
            ears = contextlib.AsyncExitStack()
            ear, _ = await ears.enter_async_context(listening(server.http, "desk"))
            await ear.has(20)
        before = len(ear.frames)
        async with ears, publishing(server.http, "desk", speech):
            await ear.has(before + 50)
            steps = np.diff([pts for pts, _ in ear.frames])
            assert (steps > 0).all()
            assert (steps % 960 == 0).all()
            # But for the pause between them, where it was joined, and a few losses on a busy machine.
            assert np.mean(steps == 960) > 0.9
        assert not len(server.calls.rooms)


async def test_nobody_to_listen_to_is_409_with_a_time_to_come_back(speech: Pcm) -> None:
    async with serving() as server:
        with pytest.raises(EndpointError, match=r"409.*nobody publishes in room 'desk'"):
            async with listening(server.http, "desk"):
                pass
        async with server.http.post("/whep/desk", data="v=0", headers=SDP) as answer:
            assert answer.status == 400
        assert not len(server.calls.rooms)


async def test_controls_in_the_query_and_by_patch(hiss: Pcm) -> None:
    async with (
        serving() as server,
        publishing(server.http, "desk", hiss, "?enabled=false") as voice,
        listening(server.http, "desk") as (ear, session),
    ):
        dry = await ear.has(50)
        async with server.http.patch(voice.resource, json={"enabled": True}) as answer:
            assert (await answer.json())["controls"]["enabled"] is True
        start = len(ear.frames)
        await ear.has(start + 150)
        wet = np.concatenate([pcm for _, pcm in ear.frames[-25:]])
        async with server.http.patch(session.resource, json={"enabled": True}) as answer:
            assert answer.status == 400
            assert "a listener has no controls" in (await answer.json())["error"]
    assert level_db(wet) < level_db(dry[10_000:]) - 15


@pytest.mark.parametrize(
    ("kind", "room", "query", "body", "status", "said"),
    [
        ("whip", "a b", "", "v=0", 400, "a room's name is 1 to 64"),
        ("whip", "x" * 65, "", "v=0", 400, "a room's name is 1 to 64"),
        ("whip", "desk", "", "", 400, "sdp must be a text"),
        ("whip", "desk", "", "garbage", 400, "sdp"),
        ("whip", "desk", "?enabled=maybe", "v=0", 400, "controls in the query"),
        ("whip", "desk", f"?enabled={'[' * 2000}", "v=0", 400, "controls in the query"),
        ("whip", "desk", "?louder=yes", "OFFER", 400, "unknown control 'louder'"),
        ("whep", "desk", "?enabled=false", "OFFER", 400, "a listener has no controls"),
        ("whep", "desk", "", "OFFER", 400, "the audio must be recvonly, not sendonly"),
        ("whip", "desk", "", "PCMU", 400, "none of the codecs audio/opus among audio/pcmu"),
    ],
)
async def test_bad_requests_are_told_why_and_leave_nothing(
    kind: str, room: str, query: str, body: str, status: int, said: str, hiss: Pcm
) -> None:
    connection = whipclient.connection()
    connection.addTransceiver(RecordedTrack(hiss), direction="sendonly")
    await connection.setLocalDescription(await connection.createOffer())
    offer = connection.localDescription.sdp
    await closing.close(connection)
    if body == "PCMU":
        offer = re.sub(r"a=(rtpmap|fmtp|rtcp-fb):(?!0 ).*\r\n", "", offer)
        offer = re.sub(r"(m=audio \d+ \S+) .*", r"\1 0", offer)
    async with serving() as server:
        text = offer if body in ("OFFER", "PCMU") else body
        async with server.http.post(f"/{kind}/{room}{query}", data=text, headers=SDP) as answer:
            assert (answer.status, said in (await answer.json())["error"]) == (status, True)
        assert not len(server.calls)
        assert not len(server.calls.rooms)
        async with server.http.post(f"/{kind}/desk", json={}) as answer:
            assert answer.status == 415


async def test_a_listener_whose_sender_fails_may_come_back(
    speech: Pcm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(packet: opus.Encoded) -> int:
        raise ValueError("of the test")

    async with serving() as server, publishing(server.http, "desk", speech):
        with monkeypatch.context() as fault:
            fault.setattr(sender, "level_of", failing)
            async with listening(server.http, "desk"):
                await until(lambda: len(server.calls) == 1, "the end of the listener's call")
        async with listening(server.http, "desk") as (ear, _):
            await ear.has(20)


async def test_endpoints_say_what_they_take() -> None:
    async with serving(ice_servers=()) as server:
        for method in ("GET", "HEAD", "OPTIONS"):
            async with server.http.request(method, "/whip/desk") as answer:
                assert answer.status == 204
                assert answer.headers["Accept-Post"] == "application/sdp"


async def test_trickled_addresses_connect_a_call(hiss: Pcm) -> None:
    connection = whipclient.connection()
    connection.addTransceiver(RecordedTrack(hiss), direction="sendonly")
    await connection.setLocalDescription(await connection.createOffer())
    offer = connection.localDescription.sdp
    lines = re.findall(r"a=candidate:.*\r\n", offer)
    (ufrag,) = re.findall(r"a=ice-ufrag:.*\r\n", offer)
    bare = re.sub(r"a=(candidate:.*|end-of-candidates)\r\n", "", offer)
    async with serving() as server:
        async with server.http.post("/whip/desk", data=bare, headers=SDP) as answer:
            resource, etag = answer.headers["Location"], answer.headers["ETag"]
            assert answer.headers["Content-Type"] == "application/sdp"
            assert "a=recvonly" in (text := await answer.text())
            assert "a=setup:passive" in text
        # Our end may not begin by itself, or the server would learn the address from its packets.
        fragment = (
            f"{ufrag}m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n{''.join(lines)}a=end-of-candidates\r\n"
        )
        for headers, body, status in (
            ({}, fragment, 428),
            ({"If-Match": '"other"'}, fragment, 412),
            ({"If-Match": "*"}, fragment, 422),
            ({"If-Match": '"*"'}, fragment, 422),  # as in the example of WHEP's draft
            ({"If-Match": etag}, "garbage", 400),
            ({"If-Match": etag}, "a=candidate:garbage", 400),
            ({"If-Match": etag}, "a=ice-ufrag:other\r\n", 400),
            ({"If-Match": f'"other", {etag}'}, fragment, 204),
        ):
            async with server.http.patch(resource, data=body, headers={**FRAGMENT, **headers}) as answer:
                assert answer.status == status, await answer.text()
        candidates = server.calls.get(resource.rpartition("/")[2])._connection.remoteDescription.sdp
        assert candidates.count("a=candidate:") == len(lines)
        for body, status in (((MOST_CANDIDATES - len(lines)) * lines[0], 204), (lines[0], 400)):
            headers = {**FRAGMENT, "If-Match": etag}
            async with server.http.patch(resource, data=body, headers=headers) as answer:
                assert answer.status == status, await answer.text()
        await closing.close(connection)


CANDIDATE = "a=candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host\r\n"
UNUSABLE = (
    CANDIDATE.replace("192.0.2.1", "x.local"),  # as a browser hides it that lends a player no microphone
    CANDIDATE.replace("192.0.2.1", "turn.example.org"),
    CANDIDATE.replace("192.0.2.1", "224.0.0.251"),
    CANDIDATE.replace("192.0.2.1", "0.0.0.0"),
    CANDIDATE.replace("5000", "0"),
    CANDIDATE.replace("5000", "65536"),
    CANDIDATE.replace("udp", "tcp").replace("host", "host tcptype active"),
)


async def test_who_has_no_address_that_can_be_used_may_say_that_there_are_no_others(hiss: Pcm) -> None:
    """It is found by its own checks."""
    connection = whipclient.connection()
    connection.addTransceiver(RecordedTrack(hiss), direction="sendonly")
    await connection.setLocalDescription(await connection.createOffer())
    offer = connection.localDescription.sdp
    none = re.sub(r"a=candidate:.*\r\n", "", offer)
    unusable = none.replace("a=end-of", "".join(UNUSABLE) + "a=end-of")
    (ufrag,) = re.findall(r"a=ice-ufrag:.*\r\n", offer)
    async with serving() as server:
        for sdp in (none, unusable):
            async with server.http.post("/whip/desk", data=sdp, headers=SDP) as answer:
                assert answer.headers["Content-Type"] == "application/sdp"
                resource, headers = (
                    answer.headers["Location"],
                    {"If-Match": answer.headers["ETag"], **FRAGMENT},
                )
            last = f"{ufrag}a=mid:0\r\n{''.join(UNUSABLE)}a=end-of-candidates\r\n"
            async with server.http.patch(resource, data=last, headers=headers) as answer:
                assert answer.status == 204
            (call,) = server.calls
            await until(lambda call=call: call._connection.connectionState == "connecting", "its checks")  # type: ignore[misc]
            assert "a=candidate" not in call._connection.remoteDescription.sdp
            async with server.http.delete(resource) as answer:
                assert answer.status == 200
        await closing.close(connection)


async def test_two_in_a_room_hear_each_other_enhanced_and_a_third_is_refused(speech: Pcm, hiss: Pcm) -> None:
    async with serving() as server:
        url = f"{server.url}"
        a, b = RoomCaller(url, speech, "x"), RoomCaller(url, hiss, "x")
        await a.call(server.http)
        try:
            async with b:
                third = RoomCaller(url, hiss, "x")
                with pytest.raises(ConnectionError, match=r"409.*has two callers"):
                    await third.call(server.http)
                await third.hang_up()
                await packets(b, 150)
                heard = b.heard()
                await until(lambda: len(a.frames) > 100, "the other's voice")
                assert level_db(a.heard()[48_000:]) < level_db(hiss) - 15
                assert lag(np.resize(speech, len(heard)), heard) is not None
            await until(lambda: len(server.calls) == 1, "the end of one call")
        finally:
            await a.hang_up()
        await until(lambda: not len(server.calls), "the end of all calls")
        assert not len(server.calls.rooms)


class RoomCaller(Caller):
    """A caller in a room."""

    def __init__(self, url: str, pcm: Pcm, room: str) -> None:
        super().__init__(url, pcm)
        self.path = f"/offer?room={room}"


async def test_the_links_name_the_ice_servers(hiss: Pcm) -> None:
    from server.config import IceServer

    servers = (IceServer("stun:127.0.0.1:1"), IceServer("turn:127.0.0.1:1", "u", 'p"\\'))
    from server.whip import link

    assert [link(s) for s in servers] == [
        '<stun:127.0.0.1:1>; rel="ice-server"',
        '<turn:127.0.0.1:1>; rel="ice-server"; username="u"; credential="p\\"\\\\"; credential-type="password"',
    ]
