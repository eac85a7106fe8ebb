"""The page of the server's load, in a real Chromium."""

import re
from collections.abc import Iterator

import pytest
from chromium import Server, browsing, call, serving
from playwright.sync_api import expect

TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--rated-calls", "4", "--workers", "1") as server:
        yield server


def test_the_load_is_drawn_live_for_who_has_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEPNET_TOKENS", TOKEN)
    with (
        serving("--rated-calls", "4", "--workers", "1") as server,
        browsing(f"{server.url}/admin") as browser,
    ):
        page = browser.page
        expect(page.get_by_role("status")).to_have_text("The server needs a token")
        page.get_by_label("Token").fill(TOKEN)
        browser.complaints.clear()  # the console tells of the 401
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_role("status")).to_have_text("Live")
        expect(page.get_by_text("None.")).to_be_visible()
        expect(page.locator("#calls svg")).to_have_attribute("aria-label", "calls 0, listeners 0, rated 4")

        caller = browser.context.new_page()
        caller.goto(f"{server.url}/#token={TOKEN}")
        call(caller, "sample")
        page.bring_to_front()
        expect(page.locator("#calls svg")).to_have_attribute("aria-label", re.compile("^calls 1,"))
        (row,) = page.locator("#lines tr").all()
        assert row.locator("td").nth(1).text_content() == "echo"
        for chart in ("cpu", "step", "batch", "delay"):
            expect(page.locator(f"#{chart} svg")).to_have_attribute("aria-label", re.compile(r" \d"))
            expect(page.locator(f"#{chart} path").first).to_have_attribute("d", re.compile("M.+L"))
        caller.close()
        expect(page.get_by_text("None.")).to_be_visible(timeout=20_000)

        assert browser.complaints == []
        assert all(url.startswith(server.url) for url in browser.requested)
        assert TOKEN not in "".join(browser.requested)
        server.process.terminate()
        server.process.wait(timeout=20)
        expect(page.get_by_role("status")).to_have_text("The server cannot be reached")


def test_a_slow_server_is_asked_for_one_thing_at_a_time(server: Server) -> None:
    with browsing(server.url) as browser:
        page = browser.page
        page.add_init_script("""
            const ask = window.fetch;
            [window.asked, window.asking, window.most] = [0, 0, 0];
            window.fetch = async (path, options) => {
                if (path !== "stats") return ask(path, options);
                asked++;
                most = Math.max(most, ++asking);
                const answer = await ask(path, options);
                await new Promise((answered) => setTimeout(answered, 2500));
                asking--;
                return answer;
            };
        """)
        page.goto(f"{server.url}/admin")
        page.wait_for_function("() => asked === 1")
        page.evaluate("dispatchEvent(new Event('hashchange'))")
        page.wait_for_function("() => asked === 3")
        expect(page.get_by_role("status")).to_have_text("Live")
        assert page.evaluate("most") == 1
        assert browser.complaints == []


def test_processor_time_is_counted_by_the_clocks_of_the_processes(server: Server) -> None:
    def process(pid: int, age_s: float, cpu_s: float) -> dict[str, object]:
        counts = dict.fromkeys(("calls", "listeners", "rated_calls", "shed", "failed", "sheds", "refused"), 0)
        steps = {"batches": {}, "step_ms": {"p50": None, "p99": None}}
        delays = {"delay_s": {"bounds": [], "counts": [0], "sum": 0}}
        return {"pid": pid, "age_s": age_s, "cpu_s": cpu_s, **counts, **steps, **delays}

    answers = [
        {"workers": [process(7, 10, 4)], "front": process(6, 11, 1)},
        {"workers": [process(7, 12, 5)], "front": process(6, 13, 1.5)},
        {"workers": [], "front": process(6, 14, 1.5)},
        {"workers": [process(7, 16, 6), process(8, 2, 1)], "front": process(6, 17, 1.5)},
        {"workers": [process(7, 3, 1.5)], "front": process(6, 4, 0)},  # all of it has begun again
    ]
    with browsing(server.url) as browser:
        drawn = browser.page.evaluate(
            """async (answers) => {
                const { Load } = await import("/load.js");
                const load = new Load();
                return answers.map((answer) => load.take(answer).cpu[0]);
            }""",
            answers,
        )
    assert drawn == [None, 0.75, 0, 0.75, 0.5]
