"""One MinIO on the loopback address, with one folder for its data."""

import secrets
import ssl
import urllib.request
from pathlib import Path
from urllib.error import URLError

from deploy.local.ports import own_range
from deploy.servers import binaries
from deploy.servers.certificates import Authority, can_make_certificates
from deploy.servers.process import CannotStart, Server
from millstream.defaults import HOST

ANSWER_SECONDS = 5.0
QUIET = {"MINIO_BROWSER": "off", "MINIO_UPDATE": "off", "MINIO_CI_CD": "1", "GOMEMLIMIT": "400MiB"}
"""No console, no check for updates, data on the root disk allowed, little memory."""


class Minio(Server):
    """A store on its folder. Its endpoint and keys stay the same over stop, kill, wipe and start."""

    kind = "MinIO"

    def __init__(self, folder: Path, *, port: int = 0, tls: bool = False) -> None:
        super().__init__(folder)
        self._at = f"{HOST}:{port or own_range() + 1}"
        self.endpoint = f"{'https' if tls else 'http'}://{self._at}"
        self.access_key_file, self.secret_key_file = self.folder / "access.key", self.folder / "secret.key"
        self.authority = Authority(self.folder / "tls")
        self._tls = tls

    @property
    def ca_file(self) -> Path:
        """The authority that signed the server's certificate, if it has one."""
        return self.authority.ca_file

    def blobs(self, bucket: str) -> str:
        """The value of the setting `blobs` for this bucket."""
        return f"minio:{self.endpoint}/{bucket}"

    def settings(self, bucket: str) -> dict[str, str]:
        """The platform's settings for this bucket."""
        named = {
            "blobs": self.blobs(bucket),
            "minio_access_key_file": str(self.access_key_file),
            "minio_secret_key_file": str(self.secret_key_file),
        }
        return {**named, "minio_ca_file": str(self.ca_file)} if self._tls else named

    def ready(self) -> bool:
        """Whether the store's health endpoint says that it is ready."""
        trusted = ssl.create_default_context(cafile=self.ca_file) if self._tls else None
        try:
            url = f"{self.endpoint}/minio/health/ready"
            with urllib.request.urlopen(url, timeout=ANSWER_SECONDS, context=trusted) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def _run(self) -> None:
        program = binaries.minio()
        for file, key in ((self.access_key_file, "millstream"), (self.secret_key_file, secrets.token_urlsafe(24))):
            if not file.exists():
                file.touch(mode=0o600)
                file.write_text(key)
        if self._tls and not self.ca_file.exists():
            self._make_certificate()
        self.data.mkdir(exist_ok=True)
        certificates = ["--certs-dir", str(self.folder / "certs")]
        root = {
            "MINIO_ROOT_USER": self.access_key_file.read_text(),
            "MINIO_ROOT_PASSWORD": self.secret_key_file.read_text(),
        }
        self._spawn([program, "server", "--address", self._at, *certificates, str(self.data)], {**QUIET, **root})

    def _make_certificate(self) -> None:
        if not can_make_certificates():
            raise CannotStart("MinIO's certificate is made with openssl: install it")
        certificate, key = Authority.make(self.authority.folder, "minio").pair("minio")
        folder = self.folder / "certs"
        folder.mkdir(exist_ok=True)
        (folder / "public.crt").write_text(certificate.read_text())
        (folder / "private.key").write_text(key.read_text())
