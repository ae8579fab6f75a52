"""TLS files (PEM), checked before they are used: those of a rotation that is not over change nothing."""

import ssl


def check_authorities(path: str, data: bytes) -> None:
    """Raise ValueError unless the bytes of this file are certificates of authorities."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise ValueError(f"{path} has no certificate that can be read: write the authorities in PEM") from None


def check_pair(cert_file: str, key_file: str) -> None:
    """Raise ValueError unless these are a certificate and its key, without a passphrase."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file, password="")
    except OSError:
        text = f"{cert_file} and {key_file} are no certificate and its key: write both in PEM, the key without a passphrase"
        raise ValueError(text) from None
