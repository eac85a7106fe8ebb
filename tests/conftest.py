"""The shipped recordings, as arrays, and a certificate."""

import gc
import ipaddress
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import av
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from percepnet import native
from percepnet.framing import Float, Pcm

RECORDINGS = Path(__file__).parent / "recordings"
PATIENT = Path(__file__).parent / "patient"


def pytest_collection_finish() -> None:
    """What all modules have brought is not looked at again when a test asks what is left of its calls."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def patient_servers() -> Iterator[None]:
    """Servers that are processes are as patient as those of ``calling.serving``."""
    path = os.pathsep.join(filter(None, [str(PATIENT), os.environ.get("PYTHONPATH")]))
    with patch.dict(os.environ, PYTHONPATH=path):
        yield


@pytest.fixture
def hang_ups() -> Iterator[None]:
    """Processes that are started heed SIGHUP, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def recording(name: str) -> Float:
    """Mono samples at 48 kHz, full scale ±1."""
    with av.open(RECORDINGS / f"{name}.flac") as file:
        parts = [frame.to_ndarray().ravel() for frame in file.decode(audio=0)]
    return np.concatenate(parts).astype(np.float32) / 32768


@pytest.fixture(scope="session")
def noisy() -> Float:
    """13.76 s of speech in noise at 7.5 dB."""
    return recording("noisy")


@pytest.fixture(scope="session")
def clean() -> Float:
    """The speech in ``noisy``, aligned to the sample."""
    return recording("clean")


@pytest.fixture(params=["compiled", "numpy"])
def processing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Once with the signal processing compiled, which ``tests/run`` sees to, and once by numpy."""
    if request.param == "compiled":
        assert native.library, "no chain.so: a C compiler and installing the package again make one"
        yield
    else:
        with native.disabled():
            yield


@pytest.fixture
def speech(noisy: Float) -> Pcm:
    """``noisy`` as a caller sends it."""
    return (noisy * 32768).astype(np.int16)


@pytest.fixture
def hiss() -> Pcm:
    """Noise without speech, which an enhancer takes away."""
    return np.random.default_rng(3).normal(0, 1500, 48_000).astype(np.int16)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recordings with a manifest: the shipped ones, for both splits, and narrow-band speech."""
    folder = tmp_path_factory.mktemp("data")
    rows = ["file,kind,split,bandwidth_hz"]
    for split in ("train", "valid"):
        for name, kind, bandwidth in (("clean", "speech", 7000), ("noise", "noise", 20000)):
            (folder / f"{name}.flac").write_bytes((RECORDINGS / f"{name}.flac").read_bytes())
            rows.append(f"{name}.flac,{kind},{split},{bandwidth}")
    (folder / "manifest.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(pem)
    return folder / "cert.pem", folder / "key.pem"
