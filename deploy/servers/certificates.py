"""A certificate authority and certificates for servers and clients on the loopback address, made with openssl."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

FRESH = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
DAYS = "30"


@dataclass(frozen=True)
class Authority:
    """`ca.pem` and `ca.key` in a folder."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, name: str = "millstream") -> "Authority":
        """A new authority in this folder, valid for 30 days."""
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder)
        made._openssl(
            "req",
            "-x509",
            *FRESH,
            "-days",
            DAYS,
            "-subj",
            f"/CN={name} authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        )
        return made

    @property
    def ca_file(self) -> Path:
        """The authority's certificate (PEM)."""
        return self.folder / "ca.pem"

    def pair(self, name: str) -> tuple[Path, Path]:
        """A new certificate and its key, `NAME.pem` and `NAME.key`, for 127.0.0.1 and localhost, for server and client."""
        certificate, key = (self.folder / f"{name}.{ending}" for ending in ("pem", "key"))
        request, extensions = f"{name}.csr", f"{name}.extensions"
        (self.folder / extensions).write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        self._openssl("req", *FRESH, "-subj", f"/CN={name}", "-keyout", key.name, "-out", request)
        self._openssl(
            "x509", "-req", "-in", request, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", DAYS, "-extfile", extensions, "-out", certificate.name,
        )  # fmt: skip
        return certificate, key

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True, timeout=30)


def can_make_certificates() -> bool:
    """Whether openssl is installed."""
    return shutil.which("openssl") is not None
