"""What a channel sends with its calls, and what it trusts: a token and TLS files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self, TypeVar

import grpc

from millstream.errors import InvalidArgument
from millstream.files import WatchedFiles
from millstream.tls import check_authorities, check_pair

T = TypeVar("T")
_TOKEN = "the token must be one line of printable ASCII characters"
_VARIABLES = {
    "token_file": "MILLSTREAM_TOKEN_FILE",
    "ca_file": "MILLSTREAM_TLS_CA_FILE",
    "cert_file": "MILLSTREAM_TLS_CLIENT_CERT_FILE",
    "key_file": "MILLSTREAM_TLS_CLIENT_KEY_FILE",
}


@dataclass(frozen=True)
class Credentials:
    """A channel's token and TLS files (PEM). `ca_file` "": plaintext. `cert_file` and `key_file`: mutual TLS.

    Files are read again when they change: a call sends the token, and opens a connection by the certificates, of then.

    Raises InvalidArgument for a token that cannot be sent, and for a certificate without its key, or both without a CA.
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
        if self.cert_file and not self.ca_file:
            raise InvalidArgument(
                "a client certificate is sent over TLS alone: set MILLSTREAM_TLS_CA_FILE to the authority that signed the "
                "services' certificates, or unset MILLSTREAM_TLS_CLIENT_CERT_FILE and MILLSTREAM_TLS_CLIENT_KEY_FILE",
                field="ca_file",
            )

    @classmethod
    def from_files(cls, token_file: str = "", ca_file: str = "", cert_file: str = "", key_file: str = "") -> Self:
        """Credentials by files; `token_file` "": no token. Raises InvalidArgument for one that cannot be read or sent."""
        made = cls("", ca_file, cert_file, key_file, token_file)
        made.bearer()
        return made

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> Self:
        """Credentials from MILLSTREAM_TOKEN_FILE and MILLSTREAM_TLS_{CA,CLIENT_CERT,CLIENT_KEY}_FILE, each may be unset.

        Raises InvalidArgument for a token file that cannot be read or sent.
        """
        return cls.from_files(*(environment.get(variable, "") for variable in _VARIABLES.values()))

    @cached_property
    def _token(self) -> WatchedFiles[str]:
        return self._watched(("token_file",), _token_of)

    @cached_property
    def _tls(self) -> WatchedFiles[grpc.ChannelCredentials]:
        return self._watched(("ca_file", *(("cert_file", "key_file") if self.cert_file else ())), self._tls_of)

    def _watched(self, fields: Sequence[str], parse: Callable[..., T]) -> WatchedFiles[T]:
        paths = {str(getattr(self, field)): field for field in reversed(fields)}
        try:
            return WatchedFiles([getattr(self, field) for field in fields], parse)
        except OSError as error:
            field = paths[str(error.filename)]
            text = f"cannot read {error.filename}: {error.strerror}; {_VARIABLES[field]} names it"
            raise InvalidArgument(text, field=field) from None
        except ValueError as error:
            raise InvalidArgument(str(error), field=fields[0]) from None

    def bearer(self) -> str:
        """The token for a call that begins now; "": none. Raises InvalidArgument where its file never could be used."""
        return self._token.value if self.token_file else self.token

    def ssl(self) -> grpc.ChannelCredentials | None:
        """gRPC's TLS credentials by the files of now, others once they change; None without a `ca_file`: plaintext.

        Raises InvalidArgument for files that cannot be read or used.
        """
        return self._tls.value if self.ca_file else None

    def _tls_of(
        self, authorities: bytes, cert: bytes | None = None, key: bytes | None = None
    ) -> grpc.ChannelCredentials:
        check_authorities(self.ca_file, authorities)
        if cert:
            check_pair(self.cert_file, self.key_file)
        return grpc.ssl_channel_credentials(authorities, key, cert)


def _token_of(data: bytes) -> str:
    # Bytes that are not ASCII make a token that is refused.
    token = data.decode(errors="replace").strip()
    if not _can_be_sent(token):
        raise ValueError(f"{_TOKEN}; {_VARIABLES['token_file']} names its file")
    return token


def _can_be_sent(token: str) -> bool:
    return token.isascii() and token.isprintable()


PLAINTEXT = Credentials()
