"""TLS between services: one certificate, one key, one authority, all by settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from services.chassis.parsers import existing_file
from services.chassis.settings import var


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """With a certificate we serve TLS; with an authority callers need one too."""

    cert: Path | None = var(
        "TOWNKEEPER_TLS_CERT",
        existing_file,
        default=None,
        help="the PEM file with this process's certificate chain",
    )
    key: Path | None = var(
        "TOWNKEEPER_TLS_KEY",
        existing_file,
        default=None,
        help="the PEM file with the certificate's private key",
        example="/etc/townkeeper/tls.key",
    )
    ca: Path | None = var(
        "TOWNKEEPER_TLS_CA",
        existing_file,
        default=None,
        help="the PEM file with the authority that peers must be signed by",
        example="/etc/townkeeper/ca.pem",
    )

    def problems(self) -> list[str]:
        if (self.cert is None) == (self.key is None):
            return []
        return ["TOWNKEEPER_TLS_CERT and TOWNKEEPER_TLS_KEY: give both or neither"]

    def server_credentials(self) -> grpc.ServerCredentials | None:
        if self.cert is None or self.key is None:
            return None
        pair = (self.key.read_bytes(), self.cert.read_bytes())
        return grpc.ssl_server_credentials(
            [pair],
            root_certificates=_read(self.ca),
            require_client_auth=self.ca is not None,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        if self.cert is None and self.ca is None:
            return None
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca),
            private_key=_read(self.key),
            certificate_chain=_read(self.cert),
        )


def _read(path: Path | None) -> bytes | None:
    return path.read_bytes() if path else None
