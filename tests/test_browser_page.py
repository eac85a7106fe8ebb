"""The page itself: from the keyboard, on a telephone, and what it says when something is wrong."""

import json
import re
import signal
import time
from collections.abc import Iterator
from urllib.request import urlopen

import pytest
from chromium import Server, browsing, call, record, serving
from playwright.sync_api import Page, expect


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def calls(server: Server) -> int:
    with urlopen(f"{server.url}/healthz") as answer:
        return int(json.load(answer)["calls"])


def colours(page: Page, scope: str, part: str = "right") -> int:
    """How many colours there are in the left or right half of a spectrogram."""
    script = """(canvas, right) => {
        const { width, height } = canvas;
        const half = Math.floor(width / 2);
        const copy = new OffscreenCanvas(half, height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(canvas, right ? half - width : 0, 0);
        const image = copy.getImageData(0, 0, half, height);
        return new Set(new Uint32Array(image.data.buffer)).size;
    }"""
    return int(page.locator(f"#{scope} canvas").evaluate(script, part == "right"))


def test_the_sample_is_heard_from_the_keyboard_alone(server: Server) -> None:
    with browsing(server.url, allow=False) as browser:
        page = browser.page
        page.keyboard.press("Tab")
        expect(page.get_by_role("radio", name="Noisy sample")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Start")).to_be_focused()
        page.keyboard.press("Shift+Tab")  # Enter starts it from there, too
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("Live")
        assert calls(server) == 1
        expect(page.get_by_role("button", name="Stop")).to_be_focused()

        assert 0.001 < record(page, 5.0).samples.std() < 0.2
        for figure in ("rtt", "server", "jitter"):
            expect(page.locator(f"#figure-{figure}")).to_have_text(re.compile(r"^[\d.]+ ms$"))
        expect(page.locator("#figure-lost")).to_have_text("0 · 0")
        expect(page.get_by_role("meter", name="Level coming back")).not_to_have_attribute(
            "aria-valuenow", "-60"
        )
        assert colours(page, "out") > 50
        assert colours(page, "back") > 50

        page.keyboard.press("Tab")
        expect(page.get_by_role("switch", name="Noise suppression")).to_be_focused()
        page.keyboard.press("Space")
        expect(page.locator("#back-what")).to_have_text("Not enhanced")
        page.keyboard.press("Enter")
        expect(page.locator("#back-what")).to_have_text("Enhanced")
        page.get_by_role("slider", name="Attenuation limit").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("Live")

        page.get_by_role("button", name="Stop").focus()
        with page.expect_response(lambda response: response.request.method == "DELETE") as gone:
            page.keyboard.press("Enter")
        assert gone.value.status == 204
        expect(page.get_by_role("status")).to_have_text("Ready")
        for meter in page.get_by_role("meter").all():
            expect(meter).not_to_have_attribute("aria-valuetext", re.compile("dB"))
        assert calls(server) == 0
        assert browser.complaints == []
        assert all(url.startswith(server.url) for url in browser.requested)


def test_who_stops_while_it_connects_has_stopped(server: Server) -> None:
    """The connection goes on until the server knows, which is not to be shown as a call."""
    with browsing(server.url) as browser:
        page = browser.page
        page.evaluate("""() => {
            const ask = window.fetch, { setRemoteDescription } = RTCPeerConnection.prototype;
            window.fetch = async (url, options) => {
                if (options?.method === "DELETE") {
                    const waits = (go) => setTimeout(window.state === "connected" ? go : waits, 1000, go);
                    await new Promise(waits);
                }
                return ask(url, options);
            };
            RTCPeerConnection.prototype.setRemoteDescription = async function (answer) {
                RTCPeerConnection.prototype.setRemoteDescription = setRemoteDescription;
                this.addEventListener("connectionstatechange", () => (window.state = this.connectionState));
                await setRemoteDescription.call(this, answer);
                document.getElementById("start").click();
            };
        }""")
        page.click("#start")
        page.wait_for_function("() => window.state === 'connected'")
        for _ in range(10):
            expect(page.get_by_role("status")).to_have_text("Ready")
            page.wait_for_timeout(50)  # while the connection stands
        expect(page.get_by_role("button", name="Start")).to_be_enabled()
        call(page, "sample")


def test_a_double_click_and_a_key_that_is_held_start_one_call(server: Server) -> None:
    with browsing(server.url) as browser:
        page = browser.page
        page.dblclick("#start")
        expect(page.get_by_role("status")).to_have_text("Live")
        page.click("#start")
        expect(page.get_by_role("status")).to_have_text("Ready")
        page.locator("#start").focus()
        for _ in range(6):
            page.keyboard.down("Enter")  # from the second on it repeats
        page.keyboard.up("Enter")
        expect(page.get_by_role("status")).to_have_text("Live")
        assert sum(url.endswith("/offer") for url in browser.requested) == 2


def test_links_lead_on_from_the_keyboard_during_a_call(server: Server) -> None:
    with browsing(server.url) as browser:
        page = browser.page
        for link, there in (("Talk to somebody else", "A room of two"), ("Leave it", "You hear yourself")):
            call(page, "sample")
            page.get_by_role("link", name=link).press("Enter")
            expect(page.locator("#company")).to_contain_text(there)
        assert browser.complaints == []


def test_a_server_that_stands_still_is_waited_for_and_a_page_that_does_is_not_alarmed() -> None:
    with serving("--workers", "1", "--drain-time", "0") as server, browsing(server.url) as browser:
        page = browser.page
        call(page, "sample")
        figures = page.locator("#figures")
        expect(page.locator("#figure-server")).to_have_text(re.compile("ms$"))
        page.evaluate("""() => {
            window.said = [];
            const status = document.getElementById("status");
            new MutationObserver(() => said.push(status.textContent)).observe(status, { childList: true });
            const until = performance.now() + 4000;
            while (performance.now() < until);
        }""")
        page.wait_for_timeout(1000)
        assert page.evaluate("said") == []

        server.process.send_signal(signal.SIGSTOP)
        try:
            expect(page.get_by_role("status")).to_have_text("Waiting for the server…", timeout=5000)
            expect(figures).to_have_class("figures old")
            expect(page.get_by_role("button", name="Stop")).to_be_enabled()
            page.wait_for_timeout(1000)
        finally:
            server.process.send_signal(signal.SIGCONT)
        expect(page.get_by_role("status")).to_have_text("Live")
        expect(figures).to_have_class("figures")
        assert page.evaluate("said") == ["Waiting for the server…", "Live"]  # each once: it is read out
        assert browser.complaints == []


def test_leaving_the_page_ends_its_call(server: Server) -> None:
    with browsing(server.url) as browser:
        with browser.page.expect_response("**/offer") as answered:
            call(browser.page, "sample")
        address = f"{server.url}/calls/{answered.value.json()['id']}"
        assert browser.context.request.get(address).status == 200
        browser.page.goto("about:blank")
        deadline = time.monotonic() + 5
        while browser.context.request.get(address).status != 404:
            assert time.monotonic() < deadline, "the call is still held"


def test_a_narrow_screen_shows_all_of_it(server: Server) -> None:
    with browsing(server.url, viewport={"width": 360, "height": 740}) as browser:
        page = browser.page
        expect(page.locator("#headphones")).to_be_hidden()
        call(page, "microphone")
        expect(page.locator("#headphones")).to_be_visible()
        assert page.evaluate("() => document.documentElement.scrollWidth") == 360
        assert browser.complaints == []


def test_nothing_scrolls_where_motion_is_unwelcome(server: Server) -> None:
    with browsing(server.url, reduced_motion="reduce") as browser:
        call(browser.page, "sample")
        record(browser.page, 2.0)
        assert colours(browser.page, "back", "left") > 50
        assert colours(browser.page, "back", "right") == 1
        assert browser.complaints == []


def test_a_refused_microphone_is_explained(server: Server) -> None:
    with browsing(server.url, allow=False) as browser:
        page = browser.page
        page.check("input[value=microphone]")
        page.click("#start")
        expect(page.get_by_role("alert")).to_contain_text("did not allow the microphone")
        expect(page.get_by_role("status")).to_have_text("Stopped")
        assert not any(url.endswith("/offer") for url in browser.requested)
        call(page, "sample")  # what the message proposes
        expect(page.get_by_role("alert")).to_be_hidden()


def test_a_browser_that_keeps_shows_and_resumes_nothing_has_its_call(server: Server) -> None:
    """Blocked storage, Firefox with a device of another rate, Safari outside of a click."""
    with browsing(server.url) as browser:
        page = browser.page
        page.add_init_script("""
            Object.defineProperty(window, "sessionStorage", { get() { throw new DOMException("", "SecurityError"); } });
            AudioContext.prototype.resume = () => new Promise(() => {});
            AudioContext.prototype.createMediaStreamSource = () => { throw new DOMException("", "NotSupportedError"); };
        """)
        page.reload()
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("status")).to_have_text("Live")
        expect(page.locator("#back")).to_have_class(re.compile("blind"))
        said = page.locator("#back .picture").evaluate("(e) => getComputedStyle(e, '::after').content")
        assert said == '"This browser cannot show it"'
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("status")).to_have_text("Ready")


def test_a_browser_without_webrtc_is_told(server: Server) -> None:
    with browsing(server.url, allow=False) as browser:
        browser.page.evaluate("() => delete window.RTCPeerConnection")
        browser.page.click("#start")
        expect(browser.page.get_by_role("alert")).to_contain_text("lends no WebRTC")
        expect(browser.page.get_by_role("status")).to_have_text("Stopped")
        assert browser.complaints == []


def test_a_microphone_that_is_unplugged_ends_the_call_and_says_so(server: Server) -> None:
    with browsing(server.url) as browser:
        page = browser.page
        page.evaluate("""() => {
            const devices = navigator.mediaDevices, lend = devices.getUserMedia.bind(devices);
            devices.getUserMedia = async (wanted) => (window.lent = await lend(wanted));
        }""")
        call(page, "microphone")
        page.evaluate("lent.getTracks()[0].dispatchEvent(new Event('ended'))")  # as browsers do
        expect(page.get_by_role("alert")).to_contain_text("microphone is gone")
        expect(page.get_by_role("status")).to_have_text("Stopped")
        call(page, "microphone")


def test_a_token_is_asked_for_or_taken_from_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "correct+horse/battery.staple=="
    monkeypatch.setenv("PERCEPNET_TOKENS", token)
    with serving() as server, browsing(server.url) as browser:
        page = browser.page
        expect(page.locator("#token")).to_be_hidden()
        page.click("#start")
        expect(page.get_by_role("alert")).to_contain_text("needs a token")
        expect(page.locator("#token")).to_be_focused()
        page.keyboard.type("“pasted”")
        page.keyboard.press("Enter")
        expect(page.locator("#token")).to_have_value("")  # asked for again
        expect(page.get_by_role("alert")).to_contain_text("needs a token")
        page.keyboard.type(token)
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")  # is no word to hang up
        expect(page.get_by_role("status")).to_have_text("Live")
        expect(page.locator("#token")).to_be_hidden()
        expect(page.get_by_role("button", name="Stop")).to_be_focused()
        assert calls(server) == 1
        page.click("#start")
        expect(page.get_by_role("status")).to_have_text("Ready")
        other = browser.context.new_page()
        other.goto(f"{server.url}/#token=100%")  # no more than a wrong one
        expect(other.get_by_role("button", name="Start")).to_be_enabled()
        expect(other.locator("#out-what")).to_have_text("Noisy sample")
        other.click("#start")
        expect(other.get_by_role("alert")).to_contain_text("does not take this token")
        other.goto(f"{server.url}/?a=b#token={token.replace('+', '%2B')}")
        call(other, "sample")
        assert other.url == f"{server.url}/?a=b"
        assert other.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        assert not any(token in url for url in browser.requested)
        with other.expect_response(lambda response: response.request.method == "DELETE") as gone:
            other.click("#start")
        assert gone.value.status == 204


def test_a_full_and_then_an_ended_server_are_explained() -> None:
    with serving("--max-calls", "1", "--drain-time", "0") as server, browsing(server.url) as browser:
        page = browser.page
        call(page, "sample")
        other = browser.context.new_page()
        other.goto(server.url)
        other.click("#start")
        expect(other.get_by_role("alert")).to_contain_text("takes no call now: ")
        expect(page.get_by_role("status")).to_have_text("Live")

        server.process.terminate()
        expect(page.get_by_role("alert")).to_contain_text("server has ended the call")
        server.process.wait(timeout=20)
        page.click("#start")
        expect(page.get_by_role("alert")).to_contain_text("server cannot be reached")


def test_two_meet_in_a_room_and_hear_each_other() -> None:
    with serving("--rated-calls", "8") as server, browsing(server.url) as browser:
        first = browser.page
        first.get_by_role("link", name="Talk to somebody else").click()
        expect(first.locator("#company")).to_contain_text("A room of two")
        call(first, "sample")
        second = browser.context.new_page()
        browser.watch(second)
        second.goto(first.url)
        call(second, "sample")
        expect(second.locator("#back-what")).to_have_text("The other")
        for page in (first, second):
            expect(page.get_by_role("meter", name="Level coming back")).not_to_have_attribute(
                "aria-valuenow", "-60"
            )
        assert browser.complaints == []
