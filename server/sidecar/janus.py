"""A session with Janus: requests and their answers, handles of plugins and their events, kept alive.

Janus answers a request to a plugin twice: it acknowledges it at once, and the event with the answer follows;
both name the request's ``transaction``. All else that comes belongs to a handle, or is of no interest here.
"""

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from server.waiting import cancelled, finished

from .following import RoomOver
from .transport import Message, Transport

# s; a session is over after 60 s without a request (Janus's default), in Docker after 20
KEEPALIVE: Final = 8.0
ANSWER_TIME: Final = 10.0  # s that Janus has for an answer
GOODBYE_TIME: Final = 2.0  # s, where the answer makes no difference: who ends has little time
NO_SUCH_SESSION: Final = 458
BROKEN: Final = (OSError, aiohttp.ClientError, ValueError)  # what a transport raises

Listener = Callable[[Message], object]

logger = logging.getLogger(__name__)


class JanusError(Exception):
    """Janus or its plugin refuses a request, or does not answer it: then with a ``code`` of 0."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"Janus says {code}: {reason}" if code else reason)
        self.code = code


class SessionLost(RoomOver):
    """The session is over, and with it all that it held at Janus."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request under way."""

    answer: "asyncio.Future[Message]"
    acknowledgement_is_all: bool


class Handle:
    """A place at a plugin. ``listener`` hears what comes unasked, on the event loop; it must return at once."""

    def __init__(self, session: "Session", id: int, listener: Listener) -> None:
        self.listener = listener
        self._session = session
        self._id = id

    async def ask(self, body: Mapping[str, Any], jsep: Message | None = None) -> tuple[Message, Message]:
        """The plugin's answer and its session description, empty where it has none; raises :class:`JanusError`."""
        request = {"janus": "message", "body": body}
        if jsep is not None:
            request["jsep"] = jsep
        answer = await self._session.ask(request, self._id)
        data = answer["plugindata"]["data"]
        if "error_code" in data:
            raise JanusError(data["error_code"], data.get("error", ""))
        return data, answer.get("jsep", {})

    async def detach(self) -> None:
        """Give the place back, with any connection that belongs to it; of a lost session nothing is left."""
        self._session.forget(self._id)
        with contextlib.suppress(SessionLost, JanusError):
            await self._session.ask({"janus": "detach"}, self._id, GOODBYE_TIME)


class Session:
    """Made by :func:`session`."""

    def __init__(self, transport: Transport, authorization: Mapping[str, str]) -> None:
        self._transport = transport
        self._authorization = authorization
        self.id: int | None = None
        self._ours = f"{secrets.token_hex(4)}."
        self._numbers = itertools.count()
        self._asked: dict[str, _Asked] = {}
        self._handles: dict[int, Handle] = {}
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def lost(self) -> None:
        """Wait until the session is over; raises :class:`SessionLost` then."""
        await asyncio.shield(self._lost)

    async def create(self) -> None:
        # Over a WebSocket the answer is the first that comes; nobody listens before there is a session.
        transaction, request = self._request({"janus": "create"})
        messages = await self._transport.send(request)
        async with asyncio.timeout(ANSWER_TIME):
            while not messages:
                messages = await self._transport.receive(0, self._authorization)
        (message,) = messages
        if message.get("janus") != "success" or message.get("transaction") != transaction:
            error = message.get("error", {})
            raise JanusError(
                error.get("code", 0), error.get("reason", f"{message.get('janus')} for a session")
            )
        self.id = message["data"]["id"]

    async def attach(self, plugin: str, listener: Listener) -> Handle:
        """A handle of ``plugin``. Cancelled meanwhile, it waits for the answer and gives the handle back.

        Without an answer nobody knows the handle, which Janus may make all the same: the session is lost then.
        """
        asking = asyncio.create_task(self.ask({"janus": "attach", "plugin": plugin}))
        try:
            answer = await asyncio.shield(asking)
        except asyncio.CancelledError:
            with contextlib.suppress(SessionLost, JanusError):
                await Handle(self, (await asking)["data"]["id"], listener).detach()
            raise
        except JanusError as error:
            if error.code == 0:
                raise self._lose(error) from error
            raise
        handle = Handle(self, answer["data"]["id"], listener)
        self._handles[answer["data"]["id"]] = handle
        return handle

    async def ask(self, message: Message, handle: int | None = None, within: float | None = None) -> Message:
        """Send a request and wait for its answer, ``within`` s or ``ANSWER_TIME``.

        Raises :class:`JanusError` or :class:`SessionLost`.
        """
        within = ANSWER_TIME if within is None else within
        if self._lost.done():
            self._lost.result()
        transaction, request = self._request(message, handle)
        answer = asyncio.get_running_loop().create_future()
        self._asked[transaction] = _Asked(answer, message["janus"] == "keepalive")
        try:
            async with asyncio.timeout(within):
                for part in await self._transport.send(request):
                    self._take(part)
                return await answer
        except TimeoutError:
            raise JanusError(0, f"no answer to {message['janus']} within {within:g} s") from None
        except BROKEN as error:
            raise self._lose(error) from error
        finally:
            del self._asked[transaction]

    def forget(self, handle: int) -> None:
        """Nobody listens to the handle any more."""
        self._handles.pop(handle, None)

    async def destroy(self) -> None:
        with contextlib.suppress(SessionLost, JanusError):
            await self.ask({"janus": "destroy"}, within=GOODBYE_TIME)
        self._lose(ConnectionError("it was ended from here"))

    async def listen(self) -> None:
        """Take all that comes, until the session is over."""
        assert self.id is not None
        try:
            while True:
                for message in await self._transport.receive(self.id, self._authorization):
                    self._take(message)
        except Exception as error:  # whatever came cannot be understood
            self._lose(error)

    async def keep_alive(self) -> None:
        try:
            while True:
                await asyncio.sleep(KEEPALIVE)
                await self.ask({"janus": "keepalive"})
        except (JanusError, SessionLost) as error:
            self._lose(error)

    def _request(self, message: Message, handle: int | None = None) -> tuple[str, Message]:
        transaction = f"{self._ours}{next(self._numbers)}"
        ids = {"session_id": self.id, "handle_id": handle}
        known = {name: id for name, id in ids.items() if id is not None}
        return transaction, {**message, **known, **self._authorization, "transaction": transaction}

    def _take(self, message: Message) -> None:
        kind = message.get("janus")
        transaction = message.get("transaction")
        asked = self._asked.get(transaction or "")
        if kind == "timeout":
            self._lose(TimeoutError("Janus has let it time out"))
        elif kind == "error":
            refusal = JanusError(message["error"]["code"], message["error"]["reason"])
            if refusal.code == NO_SUCH_SESSION or not (transaction or "").startswith(self._ours):
                self._lose(refusal)  # it is the session that is refused, not a request
            elif asked is not None and not asked.answer.done():
                asked.answer.set_exception(refusal)
        elif asked is not None and not asked.answer.done():
            if kind != "ack" or asked.acknowledgement_is_all:
                asked.answer.set_result(message)
        elif handle := self._handles.get(message.get("sender", 0)):
            try:
                handle.listener(message)
            except Exception:
                logger.exception("an event of Janus was not understood: %s", message)

    def _lose(self, error: BaseException) -> SessionLost:
        lost = SessionLost(str(error) or type(error).__name__)
        if not self._lost.done():
            self._lost.set_exception(lost)
            self._lost.exception()  # told to whoever waits or asks; nobody has to
            for asked in self._asked.values():
                if not asked.answer.done():
                    asked.answer.set_exception(lost)
        return lost


@asynccontextmanager
async def session(transport: Transport, authorization: Mapping[str, str]) -> AsyncIterator[Session]:
    """A session that lives inside. ``authorization``: ``apisecret`` and ``token``, those that Janus asks for."""
    made = Session(transport, authorization)
    await made.create()
    tasks = [
        asyncio.create_task(made.listen(), name="Janus: events"),
        asyncio.create_task(made.keep_alive(), name="Janus: keepalive"),
    ]
    try:
        yield made
    finally:
        await finished(_end(made, tasks))


async def _end(ending: Session, tasks: list[asyncio.Task[None]]) -> None:
    await ending.destroy()
    await cancelled(*tasks)
