"""Addresses of one or several replicas, and credentials; what gRPC cannot use is an error that names it."""

from pathlib import Path

import pytest

from millstream.channel import open_sync_channel
from millstream.credentials import Credentials
from millstream.errors import InvalidArgument


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "127.0.0.1:1,127.0.0.1:2", "[::1]:1,[::1]:2"])
def test_addresses_that_can_be_used(address: str) -> None:
    open_sync_channel(address).close()


@pytest.mark.parametrize("address", ["one:1,two:2", "127.0.0.1:1,[::1]:1", "127.0.0.1:1,"])
def test_a_list_of_names_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument, match="a list takes IP addresses"):
        open_sync_channel(address)


@pytest.mark.parametrize("token", [b"two\nlines", b"caf\xc3\xa9", b"\xff\xfe"])
def test_a_token_that_cannot_be_sent_is_refused(tmp_path: Path, token: bytes) -> None:
    (tmp_path / "token").write_bytes(token)
    with pytest.raises(InvalidArgument, match="one line of printable ASCII"):
        Credentials.from_env({"MILLSTREAM_TOKEN_FILE": str(tmp_path / "token")})


@pytest.mark.parametrize("variable", ["TOKEN_FILE", "TLS_CA_FILE", "TLS_CLIENT_CERT_FILE", "TLS_CLIENT_KEY_FILE"])
def test_a_file_that_cannot_be_read_is_named_with_its_variable(tmp_path: Path, variable: str) -> None:
    (tmp_path / "file.pem").touch()
    names = ("TLS_CA_FILE", "TLS_CLIENT_CERT_FILE", "TLS_CLIENT_KEY_FILE")
    environment = {f"MILLSTREAM_{name}": str(tmp_path / "file.pem") for name in names}
    environment[f"MILLSTREAM_{variable}"] = str(tmp_path)
    with pytest.raises(InvalidArgument, match=f"cannot read {tmp_path}: Is a directory; MILLSTREAM_{variable}"):
        open_sync_channel("127.0.0.1:1", Credentials.from_env(environment))


@pytest.mark.parametrize("name", ["cert_file", "key_file"])
def test_a_client_certificate_needs_its_key(name: str) -> None:
    with pytest.raises(InvalidArgument, match="go together"):
        Credentials(ca_file="ca.pem", **{name: "client.pem"})


def test_a_client_certificate_without_an_authority_is_no_plaintext_connection() -> None:
    with pytest.raises(InvalidArgument, match="set MILLSTREAM_TLS_CA_FILE") as raised:
        Credentials(cert_file="client.pem", key_file="client.key")
    assert raised.value.field == "ca_file"


@pytest.mark.parametrize(
    ("address", "credentials", "warned"),
    [
        ("registry.example:50054", Credentials(token="t"), True),
        ("127.0.0.1:1,10.0.0.1:1", Credentials(token="t"), True),
        ("127.0.0.1:1,127.0.0.2:1", Credentials(token="t"), False),
        ("[::1]:1", Credentials(token="t"), False),
        ("localhost:1", Credentials(token="t"), False),
        ("registry.example:50054", Credentials(), False),
    ],
)
def test_a_token_that_goes_to_another_machine_in_clear_is_warned_of(
    address: str, credentials: Credentials, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with open_sync_channel(address, credentials):
        assert (f"the token goes to {address} in clear" in caplog.text) is warned
