"""Score how lost packets are concealed: python tests/score_concealment.py DATA [--help]

DATA is a folder as for ``percepnet train``; its validation speech is coded, loses packets and is decoded by the
server's own receive path, and for comparison with silence or the last packet again in place of what is lost.
Prints PLCMOS / PESQ-WB, means over the clips.
"""

import argparse
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
from aiortc.codecs import CODECS, get_decoder, get_encoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from av import AudioFrame
from numpy.typing import NDArray
from opus_packets import PACKET, packets
from speechmos import plcmos

from percepnet.cli.audio_files import read_mono
from percepnet.evaluation import SCORE_RATE, pesq_wb
from percepnet.framing import Float
from percepnet.resampling import resample
from percepnet.training.corpus import scan
from server.frames import FrameReader, FrameWriter, Packet
from server.media import decoding
from server.media.decoding import Decoding
from server.media.opus import OpusDecoder

Lost = NDArray[np.bool_]
START = 5.0  # s into a recording
ROUNDS = 5  # raters that PLCMOS is averaged over


def drawn(count: int, share: float, burst: float, seed: int) -> Lost:
    """Losses of a Gilbert model: bursts of ``burst`` packets on average; of 1 at random."""
    chance = np.random.default_rng(seed)
    lost, state = np.zeros(count, bool), False
    for n in range(10, count - 1):
        if burst <= 1:
            state = chance.random() < share
        else:
            state = chance.random() < (1 - 1 / burst if state else share / (burst * (1 - share)))
        lost[n] = state
    return lost


def received(codec: RTCRtpCodecParameters, sent: list[bytes], lost: Lost) -> Float:
    """Through decoder and frame reader of the server, as after its jitter buffer."""
    reader, frames = FrameReader(), []
    decoder = Decoding(frames.append)
    step = codec.clockRate // 50
    for n, payload in enumerate(sent):
        if not lost[n]:
            decoder.read_mono(codec, n, n * step, payload)
    return np.concatenate([packet.samples for frame in frames for packet in reader.push(frame)])


def without_libopus(codec: RTCRtpCodecParameters, sent: list[bytes], lost: Lost) -> Float:
    with patch.object(decoding, "library", lambda: None):
        return received(codec, sent, lost)


def by_libopus(codec: RTCRtpCodecParameters, sent: list[bytes], lost: Lost) -> Float:
    with patch.object(decoding, "TRANSFORM", 0x100):  # of all that Opus codes
        return received(codec, sent, lost)


def simple(repeat: bool) -> Callable[[RTCRtpCodecParameters, list[bytes], Lost], Float]:
    def fill(codec: RTCRtpCodecParameters, sent: list[bytes], lost: Lost) -> Float:
        decoder = OpusDecoder() if codec.name == "opus" else get_decoder(codec)
        reader, out = FrameReader(), []
        for n, payload in enumerate(sent):
            if lost[n]:
                out.append(out[-1] if repeat else np.zeros(PACKET, np.float32))
            else:
                for frame in decoder.read_mono(JitterFrame(payload, n * codec.clockRate // 50)):
                    frame.pts = None
                    out += [packet.samples for packet in reader.push(frame)]
        return np.concatenate(out)

    return fill


def coded(codec: RTCRtpCodecParameters, pcm: Float, bitrate: int, fec: bool) -> list[bytes]:
    if codec.name == "opus":
        return packets(pcm, bitrate=bitrate, fec=fec)
    encoder, like = get_encoder(codec), AudioFrame(format="s16", layout="mono", samples=160)
    like.sample_rate = 16_000 if codec.name == "G722" else 8_000
    writer = FrameWriter(like)
    parts = pcm[: len(pcm) // PACKET * PACKET].reshape(-1, PACKET)
    return [
        data
        for n, part in enumerate(parts)
        for data in encoder.encode(writer.frame(Packet(n * PACKET, part)))[0]
    ]


def clips(data: Path, count: int, seconds: float) -> list[Float]:
    speech = [
        recording.file for recording in scan(data) if (recording.kind, recording.split) == ("speech", "valid")
    ]
    found: list[Float] = []
    for file in np.random.default_rng(0).permutation(speech):
        pcm = read_mono(data / file)[round(START * 48_000) :][: round(seconds * 48_000)]
        if len(pcm) == round(seconds * 48_000) and len(found) < count:
            found.append(pcm.astype(np.float32) / 32768)
    return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--codec", choices=["opus", "PCMU", "G722"], default="opus")
    parser.add_argument("--bitrate", type=int, default=32_000, help="bit/s of Opus")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each")
    parser.add_argument("--loss", type=float, nargs="+", default=[1, 5, 10, 20], help="%%")
    parser.add_argument(
        "--burst", type=float, nargs="+", default=[1, 3], help="mean length of losses in a row"
    )
    args = parser.parse_args(arguments)
    codec = next(codec for codec in CODECS["audio"] if codec.name == args.codec)
    ways = {"silence": simple(repeat=False), "repetition": simple(repeat=True)}
    ways |= (
        {"ours": received} if codec.name != "opus" else {"ours alone": without_libopus, "libopus": by_libopus}
    )
    model = plcmos.PLCMOS(embed_rounds=ROUNDS)

    def scored(clean: Float, heard: Float) -> tuple[float, float]:
        reference, degraded = (
            resample(x[np.newaxis, : len(heard)], 48_000, SCORE_RATE)[0] for x in (clean, heard)
        )
        np.random.seed(0)  # noqa: NPY002 — draws its raters there
        return float(model.get_mos(np.clip(degraded, -1, 1))), pesq_wb(reference, degraded)

    heads = [*ways, *(["server, FEC"] if codec.name == "opus" else [])]
    print("| loss | in a row | " + " | ".join(heads) + " |\n|" + "---|" * (len(heads) + 2))
    coded_clips = [
        (clip, {fec: coded(codec, clip, args.bitrate, fec) for fec in {False, codec.name == "opus"}})
        for clip in clips(args.data, args.clips, args.seconds)
    ]
    for share, burst in product(args.loss, args.burst):
        rows = []
        for seed, (clip, sent) in enumerate(coded_clips):
            lost = drawn(len(sent[False]), share / 100, burst, seed)
            row = [scored(clip, way(codec, sent[False], lost)) for way in ways.values()]
            rows.append(
                row + ([scored(clip, received(codec, sent[True], lost))] if codec.name == "opus" else [])
            )
        means = np.mean(rows, axis=0)
        cells = " | ".join(f"{mos:.2f} / {pesq:.2f}" for mos, pesq in means)
        print(f"| {share:g} % | {burst:g} | {cells} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
