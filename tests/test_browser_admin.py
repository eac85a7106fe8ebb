"""The page of the server's load, in a real Chromium."""

import re

import pytest
from chromium import browsing, call, serving
from playwright.sync_api import expect

TOKEN = "correct-horse-battery-staple"


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
