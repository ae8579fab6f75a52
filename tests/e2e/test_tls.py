"""With mutual TLS, and several replicas behind each address."""

import shutil
import subprocess
from pathlib import Path

import pytest

from millrace import Client, Credentials
from millrace.errors import Unavailable
from tests.e2e import scenario
from tests.e2e.world import world

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="makes its certificates with openssl")


def certificates(folder: Path) -> None:
    """An authority ca.pem, and one pair pair.pem and pair.key for 127.0.0.1."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=30)

    fresh = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *fresh, "-days", "2", "-subj", "/CN=millrace tests", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", *fresh, "-subj", "/CN=millrace", "-keyout", "pair.key", "-out", "pair.csr")
    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
    authority = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
    openssl("x509", "-req", "-in", "pair.csr", *authority, "-days", "2", "-extfile", "extensions", "-out", "pair.pem")


def test_the_flow_with_mutual_tls_and_two_replicas(tmp_path: Path) -> None:
    certificates(tmp_path)
    ca, cert, key = (str(tmp_path / name) for name in ("ca.pem", "pair.pem", "pair.key"))
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
