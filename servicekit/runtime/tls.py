"""The server's TLS: its certificate, key and clients' authorities, read again when they change."""

import grpc

from millstream.files import WatchedFiles
from millstream.tls import check_authorities, check_pair
from servicekit.runtime.settings import Settings


def server_credentials(settings: Settings) -> grpc.ServerCredentials:
    """Credentials by which each new connection is made as the files are then. Ends the process where they cannot be used."""
    cert, key, authorities = settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file

    def parse(cert_bytes: bytes, key_bytes: bytes, trusted: bytes | None = None) -> grpc.ServerCertificateConfiguration:
        check_pair(cert, key)
        if trusted is not None:
            check_authorities(authorities, trusted)
        return grpc.ssl_server_certificate_configuration([(key_bytes, cert_bytes)], trusted)

    try:
        files = WatchedFiles([cert, key, *([authorities] if authorities else [])], parse)
    except OSError as error:
        raise SystemExit(f"cannot read {error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise SystemExit(str(error)) from None
    return grpc.dynamic_ssl_server_credentials(files.value, lambda: files.value, bool(authorities))
