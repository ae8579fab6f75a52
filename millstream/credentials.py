"""What a channel sends with its calls, and what it trusts: a token and TLS files."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import grpc

from millstream.errors import InvalidArgument
from millstream.files import WatchedFile

_TOKEN = "the token must be one line of printable ASCII characters"


@dataclass(frozen=True)
class Credentials:
    """A channel's token and TLS files (PEM). `ca_file` "": plaintext. `cert_file` and `key_file`: mutual TLS.

    With a `token_file` the token of each call is the one that the file has then.

    Raises InvalidArgument for a token that cannot be sent, and for a certificate without its key or the reverse.
    """

    token: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    token_file: str = ""

    def __post_init__(self) -> None:
        if not _can_be_sent(self.token):
            raise InvalidArgument(f"{_TOKEN}; MILLSTREAM_TOKEN_FILE names its file", field="token")
        if bool(self.cert_file) != bool(self.key_file):
            raise InvalidArgument(
                "a client certificate and its key go together: set MILLSTREAM_TLS_CLIENT_CERT_FILE and "
                "MILLSTREAM_TLS_CLIENT_KEY_FILE, or neither",
                field="cert_file" if self.key_file else "key_file",
            )

    @classmethod
    def from_files(cls, token_file: str = "", ca_file: str = "", cert_file: str = "", key_file: str = "") -> Self:
        """Credentials with the token read from a file; `token_file` "": none. Raises InvalidArgument if it is unreadable."""
        # Bytes that are not ASCII make a token that is refused.
        token = _read(token_file, "token_file", "TOKEN_FILE").decode(errors="replace").strip() if token_file else ""
        return cls(token, ca_file, cert_file, key_file, token_file)

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> Self:
        """Credentials from MILLSTREAM_TOKEN_FILE and MILLSTREAM_TLS_{CA,CLIENT_CERT,CLIENT_KEY}_FILE, each may be unset.

        Raises InvalidArgument for a token file that cannot be read or sent.
        """
        names = ("TOKEN_FILE", "TLS_CA_FILE", "TLS_CLIENT_CERT_FILE", "TLS_CLIENT_KEY_FILE")
        return cls.from_files(*(environment.get(f"MILLSTREAM_{name}", "") for name in names))

    @cached_property
    def _watched(self) -> WatchedFile[str]:
        return WatchedFile(self.token_file, _token_of)

    def bearer(self) -> str:
        """The token for a call that begins now; "": none."""
        return self._watched.value if self.token_file else self.token

    def ssl(self) -> grpc.ChannelCredentials | None:
        """gRPC's TLS credentials; None without a `ca_file`: plaintext. Raises InvalidArgument for an unreadable file."""
        if not self.ca_file:
            return None
        authorities = _read(self.ca_file, "ca_file", "TLS_CA_FILE")
        if not self.cert_file:
            return grpc.ssl_channel_credentials(authorities)
        key = _read(self.key_file, "key_file", "TLS_CLIENT_KEY_FILE")
        return grpc.ssl_channel_credentials(
            authorities, key, _read(self.cert_file, "cert_file", "TLS_CLIENT_CERT_FILE")
        )


def _token_of(data: bytes) -> str:
    token = data.decode(errors="replace").strip()
    if not _can_be_sent(token):
        raise ValueError(_TOKEN)
    return token


def _can_be_sent(token: str) -> bool:
    return token.isascii() and token.isprintable()


def _read(path: str, field: str, variable: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        text = f"cannot read {path}: {error.strerror}; MILLSTREAM_{variable} names it"
        raise InvalidArgument(text, field=field) from None


PLAINTEXT = Credentials()
