"""With mutual TLS, and several replicas behind each address."""

from pathlib import Path

import pytest

from deploy.servers.certificates import Authority, can_make_certificates
from millstream import Client, Credentials
from millstream.errors import Unavailable
from tests.e2e import scenario
from tests.worlds.platform import world

pytestmark = pytest.mark.skipif(not can_make_certificates(), reason="makes its certificates with openssl")


def test_the_flow_with_mutual_tls_and_two_replicas(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    ca, (cert, key) = str(authority.ca_file), map(str, authority.pair("pair"))
    settings = {
        "tls_cert_file": cert,
        "tls_key_file": key,
        "tls_client_ca_file": ca,
        "tls_ca_file": ca,
        "tls_client_cert_file": cert,
        "tls_client_key_file": key,
    }
    shown = Credentials(ca_file=ca, cert_file=cert, key_file=key)
    with world(tmp_path / "state", replicas=2, settings=settings, credentials=shown) as platform:
        assert scenario.run(platform, scenario.a_file(tmp_path)) == 1
        for wrong in (Credentials(), Credentials(ca_file=ca)):
            client = Client(registry=platform.addresses["registry"], credentials=wrong)
            with client, pytest.raises(Unavailable):
                client.model(scenario.MODEL)
