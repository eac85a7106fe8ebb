"""The page in Debian's Firefox against the real server."""

from pathlib import Path

from firefox import firefox
from processes import served

# Firefox tells what comes back without a sound card, too: audioLevel, 1 at full scale.
CONNECTION = """
    const Connection = RTCPeerConnection;
    globalThis.RTCPeerConnection = class extends Connection {
        constructor(...options) { super(...options); globalThis.connection = this; }
    };
    globalThis.heard = async () => {
        const report = await connection.getStats();
        return [...report.values()].find((part) => part.type === "inbound-rtp" && part.packetsReceived > 100);
    };
"""


def state(name: str) -> str:
    return f"document.getElementById('status').dataset.state === '{name}'"


def level(condition: str) -> str:
    return f"heard().then((inbound) => inbound && inbound.audioLevel {condition})"


async def test_firefox_hears_the_noise_when_it_turns_the_suppression_off(tmp_path: Path) -> None:
    async with served() as server, firefox(server.url, tmp_path, CONNECTION) as browser:
        await browser.click("input[name=source][value=microphone]")
        await browser.click("#start")
        await browser.until(state("live"))
        # the steady tone of the microphone is noise
        await browser.until(level("< 0.001"))
        await browser.click("#enabled")
        await browser.until(level("> 0.03"))
        await browser.click("#enabled")
        await browser.until(level("< 0.001"))
        assert await browser.run("heard().then(({ packetsLost }) => packetsLost)") == 0
        await browser.click("#start")
        await browser.until(state("idle"))
        await browser.until(
            "fetch('healthz').then((answer) => answer.json()).then((said) => said.calls === 0)"
        )
        assert browser.complaints == []
