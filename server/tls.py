"""https: the certificate and key of the options."""

import ssl
from pathlib import Path

from .config import Config


def context(config: Config) -> ssl.SSLContext | None:
    """None where the options have no certificate.

    Raises ``ValueError`` or ``OSError`` that names the file; OpenSSL's own errors name none.
    """
    if config.tls_cert is None:
        if config.tls_key is not None:
            raise ValueError(
                f"--tls-key {config.tls_key} needs --tls-cert, the certificate that it is the key of"
            )
        return None
    key = config.tls_key or config.tls_cert
    _check(config.tls_cert, "CERTIFICATE")
    _check(key, "PRIVATE KEY")
    if b"ENCRYPTED" in key.read_bytes():  # OpenSSL would ask for its password at the terminal
        raise ValueError(f"{key}: its key has a password; allowed is one without, as openssl pkey writes it")
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # TLS 1.2 or newer
    try:
        found.load_cert_chain(config.tls_cert, key)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        raise ValueError(f"certificate {config.tls_cert} with key {key}: {reason}") from None
    return found


def _check(path: Path, what: str) -> None:
    if f"{what}-----".encode() not in path.read_bytes():
        raise ValueError(f"{path}: no {what.lower()} in PEM format is in it")
