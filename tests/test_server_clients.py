"""WHIP and WHEP with clients that others have made: FFmpeg, GStreamer, and npm's whip-whep in Chromium."""

import asyncio
import contextlib
import hashlib
import io
import re
import tarfile
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from calling import Server, serving, unlikeness_db, until
from chromium import SAMPLE_RATE, browsing, record, write_wav
from chromium import serving as serving_apart
from conftest import RECORDINGS
from whip_peers import listening

from percepnet import enhance
from percepnet.framing import Float, Pcm
from server.loadtest.hearing import lag

NOISY = RECORDINGS / "noisy.flac"
FFMPEG = (
    *("-hide_banner", "-loglevel", "warning", "-re", "-i", NOISY),
    *("-c:a", "libopus", "-ac", "2", "-ar", "48000", "-b:a", "64k", "-f", "whip"),
)
GSTREAMER = Path(__file__).with_name("gstreamer_whip.py")
WHIP_WHEP = "https://registry.npmjs.org/whip-whep/-/whip-whep-1.2.0.tgz"
WHIP_WHEP_SHA256 = "f032b2b2015da76268d3f4a0450af2cf24ae984c6bf7cc5bfd494763cefaf786"
HEARD = 300  # frames


def is_enhanced(heard: Float, noisy: Float) -> bool:
    """Whether ``heard`` is nearer to the enhanced than to the noisy recording, from where it begins."""
    wet = enhance(noisy, SAMPLE_RATE)
    late = lag(np.resize(as_pcm(noisy), len(heard)), as_pcm(heard))
    assert late is not None, "what is heard is not the recording"
    part = slice(SAMPLE_RATE // 2, len(heard))
    like = [unlikeness_db(np.roll(x, late)[part], heard[part]) for x in (wet, noisy)]
    return like[0] < like[1] - 2


def as_pcm(samples: Float) -> Pcm:
    return np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16)


@asynccontextmanager
async def running(*command: object) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def hears_the_recording_enhanced(server: Server, noisy: Float) -> None:
    """Somebody publishes the recording in the room; somebody else listens."""
    await until(lambda: len(server.calls) > 0, "a publisher")
    async with listening(server.http, "desk") as (ear, _):
        heard = await ear.has(HEARD)
    assert is_enhanced(heard.astype(np.float32) / 32768, noisy)


async def test_ffmpeg_publishes(noisy: Float) -> None:
    async with (
        serving() as server,
        running(imageio_ffmpeg.get_ffmpeg_exe(), *FFMPEG, f"{server.url}/whip/desk"),
    ):
        await hears_the_recording_enhanced(server, noisy)


async def test_gstreamer_publishes(noisy: Float) -> None:
    async with (
        serving() as server,
        running("/usr/bin/python3", GSTREAMER, NOISY, f"{server.url}/whip/desk") as process,
    ):
        assert process.stdout is not None
        assert await process.stdout.readline() == b"201\n"
        await hears_the_recording_enhanced(server, noisy)


def test_whip_whep_publishes_and_listens_in_chromium(tmp_path: Path, noisy: Float) -> None:
    with urllib.request.urlopen(WHIP_WHEP, timeout=60) as answer:
        package = answer.read()
    assert hashlib.sha256(package).hexdigest() == WHIP_WHEP_SHA256
    code = "".join(module(package, name) for name in ("whip", "whep"))
    microphone = write_wav(tmp_path / "noisy.wav", np.concatenate([noisy, noisy]))
    with serving_apart("--workers", "2") as server, browsing(server.url, microphone) as browser:
        browser.page.evaluate(f"() => {{ {code} }}")
        browser.page.evaluate(PUBLISH)
        browser.page.evaluate(LISTEN)
        heard = record(browser.page, HEARD / 50).samples
        assert browser.complaints == []
        # They close the connection first; whether its resource is still there then is chance, and 404 is fine.
        browser.page.evaluate("() => Promise.all([whip.stop(), whep.stop()])")
    # Chromium's jitter buffer stretches and shrinks what it plays, so samples cannot be compared.
    assert lag(np.resize(as_pcm(noisy), len(heard)), as_pcm(heard)) is not None
    (pauses, speech), (noise, voice) = quiet_and_loud(heard), quiet_and_loud(noisy)
    assert pauses < noise - 15
    assert speech == pytest.approx(voice, abs=6)


def quiet_and_loud(samples: Float) -> tuple[float, float]:
    """Levels in dB that a tenth and nine tenths of all 100 ms are below."""
    frames = samples[: len(samples) // 4800 * 4800].reshape(-1, 4800)
    low, high = np.percentile(10 * np.log10(np.mean(np.square(frames), axis=1) + 1e-9), [10, 90])
    return float(low), float(high)


@pytest.mark.parametrize("first", ["audio", "video"])
@pytest.mark.parametrize("bundle", ["balanced", "max-bundle"])
def test_video_is_refused_and_the_audio_beside_it_taken(
    tmp_path: Path, noisy: Float, first: str, bundle: str
) -> None:
    """As programs with a camera publish, and players that ask for a picture listen."""
    with serving_apart() as server, browsing(server.url, write_wav(tmp_path / "noisy.wav", noisy)) as browser:
        found = browser.page.evaluate(VIDEO, [first, bundle])
        assert browser.complaints == []
    video = ["video inactive"] if first == "video" else []  # that carries the audio; else Chromium drops it
    assert found["publisher"] == [*video, "audio sendonly"]
    assert found["listener"] == [*video, "audio recvonly"]
    assert found["heard"]


def module(package: bytes, name: str) -> str:
    """The class that a module of the package exports, put into the page's globals."""
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        file = archive.extractfile(f"package/{name}.js")
        assert file is not None
        return re.sub(r"export class (\w+)", r"globalThis.\1 = class \1", file.read().decode()) + ";"


PUBLISH = """async () => {
  const audio = { noiseSuppression: false, echoCancellation: false, autoGainControl: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio });
  const pc = new RTCPeerConnection();
  pc.addTransceiver(stream.getAudioTracks()[0], { direction: "sendonly", streams: [stream] });
  globalThis.whip = new WHIPClient();
  await whip.publish(pc, new URL("/whip/desk", location).href, "");
}"""
LISTEN = """async () => {
  const pc = new RTCPeerConnection();
  pc.addTransceiver("audio", { direction: "recvonly" });
  const track = new Promise(resolve => { pc.ontrack = event => resolve(event.track); });
  globalThis.whep = new WHEPClient();
  await whep.view(pc, new URL("/whep/desk", location).href, "");
  document.getElementById("player").srcObject = new MediaStream([await track]);
  await new Promise((resolve, reject) => {
    setTimeout(reject, 60000, new Error(`after a minute it is ${pc.connectionState}`));
    const look = () => (pc.connectionState === "connected" ? resolve() : setTimeout(look, 20));
    look();
  });
}"""


VIDEO = """async ([first, bundlePolicy]) => {
  const kinds = first === "audio" ? ["audio", "video"] : ["video", "audio"];
  const call = async (path, pc) => {
    await pc.setLocalDescription();
    const headers = { "Content-Type": "application/sdp" };
    const answer = await fetch(path, { method: "POST", headers, body: pc.localDescription.sdp });
    if (answer.status !== 201) throw new Error(await answer.text());
    await pc.setRemoteDescription({ type: "answer", sdp: await answer.text() });
    await new Promise((done, fail) => {
      const look = () => {
        if (pc.connectionState === "connected") done();
        if (["failed", "closed"].includes(pc.connectionState)) fail(new Error(pc.connectionState));
      };
      pc.onconnectionstatechange = look;
      look();
    });
    return pc.getTransceivers().map(one => `${one.receiver.track.kind} ${one.currentDirection}`);
  };
  const [audio] = (await navigator.mediaDevices.getUserMedia({ audio: true })).getTracks();
  const canvas = document.createElement("canvas");
  canvas.getContext("2d");
  const tracks = { audio, video: canvas.captureStream().getTracks()[0] };
  const whip = new RTCPeerConnection({ bundlePolicy }), whep = new RTCPeerConnection({ bundlePolicy });
  for (const kind of kinds) {
    whip.addTransceiver(tracks[kind], { direction: "sendonly" });
    whep.addTransceiver(kind, { direction: "recvonly" });
  }
  const publisher = await call("/whip/desk", whip);
  const listener = await call("/whep/desk", whep);
  let packets = 0;
  for (let time = 0; packets < 20 && time < 20_000; time += 100) {
    await new Promise(done => setTimeout(done, 100));
    for (const stat of (await whep.getStats()).values())
      if (stat.type === "inbound-rtp" && stat.kind === "audio") packets = stat.packetsReceived;
  }
  whip.close();
  whep.close();
  return { publisher, listener, heard: packets >= 20 };
}"""
