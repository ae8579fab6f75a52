"""TLS files are checked before they are used, and no more is asked of them than gRPC asks."""

from pathlib import Path

import pytest

from deploy.servers.certificates import Authority, can_make_certificates
from millstream.tls import check_authorities


@pytest.mark.skipif(not can_make_certificates(), reason="openssl is not installed")
def test_authorities_may_have_comments_in_any_language(tmp_path: Path) -> None:
    authority = Path(Authority.make(tmp_path).ca_file).read_bytes()
    check_authorities("ca.pem", "# Főtanúsítvány\n".encode() + authority)
    with pytest.raises(ValueError, match=r"ca\.pem has no certificate that can be read"):
        check_authorities("ca.pem", "# Főtanúsítvány\n".encode())
