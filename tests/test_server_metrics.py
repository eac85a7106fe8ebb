"""``GET /metrics`` and ``GET /calls``: what those see who watch the server."""

from typing import Any

import numpy as np
import pytest
from caller import Caller
from calling import Server, packets, serving, until
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from whip_peers import listening, publishing

from server.figures import Histogram
from server.metrics import PACKETS, Figures
from server.overview import line
from server.totals import Totals

SILENCE = np.zeros(960, np.int16)
HISTOGRAMS = ("percepnet_batch_size", "percepnet_step_seconds", "percepnet_delay_seconds")


async def scraped(server: Server) -> dict[str, float]:
    """Values by the names and further labels of their series."""
    async with server.http.get("/metrics") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/plain"
        text = await answer.text()
    return {_name(s): s.value for family in text_string_to_metric_families(text) for s in family.samples}


def _name(sample: Sample) -> str:
    rest = [v for k, v in sample.labels.items() if k not in ("worker", "process")]
    return ":".join([sample.name, *rest])


async def test_a_scrape_has_what_calls_did_and_keeps_it_when_they_end() -> None:
    async with serving(rated_calls=1) as server:
        before = await scraped(server)
        async with Caller(server.url, SILENCE) as caller:
            await packets(caller, 20)
            during = await scraped(server)
            stats = await (await server.http.get("/stats")).json()
            body = {"sdp": caller.connection.localDescription.sdp, "type": "offer"}
            assert (await server.http.post("/offer", json=body)).status == 503
        await until(lambda: not len(server.calls), "the call is freed")
        after = await scraped(server)
    shown = {name for name, _ in PACKETS}
    assert set(stats["workers"][0]["packets"]) - {"in", "out"} == shown  # none is forgotten
    assert before["percepnet_packets_total:in"] == before["percepnet_calls"] == 0
    assert (during["percepnet_calls"], after["percepnet_calls"]) == (1, 0)
    assert during["percepnet_packets_received_total"] >= during["percepnet_packets_total:out"] >= 20
    assert (after["percepnet_offers_total:201"], after["percepnet_offers_total:503"]) == (1, 1)
    assert after["percepnet_calls_began_total"] == after["percepnet_calls_refused_total"] == 1
    counters = [name for name in before if "_total" in name or "_bucket" in name or "_count" in name]
    assert len(counters) > 40
    for name in counters:
        assert before[name] <= during[name] <= after[name], name
    for name in HISTOGRAMS:
        assert after[f"{name}_count"] >= 20
        assert after[f"{name}_bucket:+Inf"] == after[f"{name}_count"]
        assert after[f"{name}_sum"] > 0
    assert after["percepnet_batch_size_sum"] >= after["percepnet_batch_size_count"]
    assert after["percepnet_cpu_seconds_total"] > before["percepnet_cpu_seconds_total"]
    assert after["percepnet_resident_memory_bytes"] > 1e7


async def test_scrapers_get_the_format_that_they_ask_for() -> None:
    async with serving() as server:
        for asked, given in (
            ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
            ("application/openmetrics-text; version=nonsense", "text/plain"),
            ("*/*", "text/plain"),
        ):
            async with server.http.get("/metrics", headers={"Accept": asked}) as answer:
                assert (answer.status, answer.content_type) == (200, given)
                assert "percepnet_calls{" in await answer.text()


async def test_each_call_has_a_line_without_its_whole_id() -> None:
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        await packets(caller, 5)
        async with server.http.get("/calls") as answer:
            body = await answer.text()
            (line,) = (await answer.json())["calls"]
        assert caller.id not in body
        assert caller.id.startswith(line["id"])
        assert (line["role"], line["room"], line["state"]) == ("echo", None, "connected")
        assert line["enhancement"] == "on"
        assert line["age_s"] > 0
        assert line["delay_ms"] > 30
        assert line["loss"] == 0


def line_of(**report: object) -> dict[str, object]:
    """The line of a call that reports this."""

    class Reported:
        def report(self) -> dict[str, Any]:
            return {**dict.fromkeys(("role", "room", "state", "age_s")), **report}

    return line(Reported())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("packets", "loss"),
    [
        ({"received": 1000, "lost": 0}, 0.0),
        ({"received": 900, "lost": 100}, 0.1),
        ({"received": 1800, "lost": 100, "duplicate": 900}, 0.1),
        ({"received": 1000, "lost": 50, "late": 50}, 0.05),
        ({"received": 3, "lost": 0, "stray": 3}, 0.0),
        ({"received": 0, "lost": 0}, None),
    ],
)
def test_the_loss_in_a_line_is_of_packets_that_were_sent(packets: dict[str, int], loss: float | None) -> None:
    counts = {**dict.fromkeys(("late", "duplicate", "stray"), 0), **packets}
    assert line_of(packets=counts)["loss"] == loss


@pytest.mark.parametrize("path", ["/metrics", "/calls"])
async def test_watching_needs_a_token(path: str) -> None:
    token = "correct-horse-battery-staple"
    async with serving(tokens=(token,)) as server:
        assert (await server.http.get(path)).status == 401
        assert (await server.http.post("/whip/desk")).status == 401
        answer = await server.http.get(path, headers={"Authorization": f"Bearer {token}"})
        assert answer.status == 200
        if path == "/metrics":
            assert 'percepnet_offers_total{code="401"' in await answer.text()


def test_who_watches_the_server_does_not_learn_the_names_of_rooms() -> None:
    """With them they could listen, or take the seat of somebody who is expected."""

    for name, said in (("x7Kq-secret-of-two", "x7Kq…"), ("desk", "desk"), (None, None)):
        assert line_of(role="partner", room=name)["room"] == said


async def test_publishers_and_listeners_have_lines_with_their_room() -> None:
    async with (
        serving() as server,
        publishing(server.http, "desk", SILENCE),
        listening(server.http, "desk") as (ear, _),
    ):
        await ear.has(2)
        async with server.http.get("/calls") as answer:
            lines = {line["role"]: line for line in (await answer.json())["calls"]}
        found = await scraped(server)
    assert set(lines) == {"publisher", "listener"}
    assert {line["room"] for line in lines.values()} == {"desk"}
    assert lines["publisher"]["enhancement"] == "on"
    assert all(lines["listener"][name] is None for name in ("enhancement", "loss", "delay_ms"))
    assert (found["percepnet_calls"], found["percepnet_listeners"]) == (1, 1)


def test_series_tell_workers_and_their_processes_apart() -> None:
    histogram = Histogram((0.5, 1.0))
    for value in (0.5, 0.6, 7):
        histogram.note(value)
    totals = Totals()
    totals.add({"in": 3, "lost": 2, "late": None}, Totals().copy()._delay_s)
    worker = {
        **dict.fromkeys(("calls", "listeners", "rated_calls", "shed", "failed"), 1),
        **dict.fromkeys(("began", "refused", "sheds"), 1),
        **{"draining": False, "cpu_s": 1.5, "rss_bytes": None, "fds": 9, "threads": 3, "tasks": 2},
        **{"batches": {"1": 2, "3": 1, "300": 1}, "step_s": histogram.as_dict(), **totals.as_dict()},
    }
    front = {name: worker[name] for name in ("cpu_s", "rss_bytes", "fds", "threads", "tasks")}
    stats = {
        "workers": [{"worker": n, "pid": 10 + n, **worker} for n in (0, 1)],
        "front": {"pid": 9, **front},
        "answers": {"201": 4, "503": 1},
    }
    found = {family.name: family.samples for family in Figures(stats).collect()}
    labels = [{"worker": str(n), "process": str(10 + n)} for n in (0, 1)]
    assert [sample.labels for sample in found["percepnet_calls"]] == labels
    offers = [(s.labels["worker"], s.labels["code"], s.value) for s in found["percepnet_offers"]]
    assert offers == [("front", "201", 4), ("front", "503", 1)]
    cpu = found["percepnet_cpu_seconds"]
    assert [sample.labels for sample in cpu] == [*labels, {"worker": "front", "process": "9"}]
    assert found["percepnet_resident_memory_bytes"] == []  # not known here
    steps = [s.value for s in found["percepnet_step_seconds"] if s.labels["worker"] == "0"]
    assert steps == [1, 2, 3, 3, 8.1]  # up to 0.5, 1, +Inf; count and sum
    sizes = {s.labels.get("le"): s.value for s in found["percepnet_batch_size"] if s.labels["worker"] == "0"}
    assert (sizes["1.0"], sizes["2.0"], sizes["4.0"], sizes["256.0"], sizes["+Inf"]) == (2, 2, 3, 3, 4)
    lost = found["percepnet_packets_lost"]
    assert [sample.value for sample in lost] == [2, 2]
