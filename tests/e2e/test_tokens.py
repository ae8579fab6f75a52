"""Tokens: services authenticate to each other, and each role may do its own calls only."""

from pathlib import Path

import pytest

from millstream import Client, Credentials
from millstream.errors import PermissionDenied, Unauthenticated
from tests.e2e import scenario
from tests.worlds.platform import world


def test_the_flow_with_tokens(tmp_path: Path) -> None:
    (tmp_path / "accepted").write_text(
        "s-secret services operator\nw-secret writer-of-the-team writer\nr-secret reader-of-the-team reader\n"
    )
    (tmp_path / "service-token").write_text("s-secret\n")
    settings = {"tokens_file": str(tmp_path / "accepted"), "token_file": str(tmp_path / "service-token")}
    writer, reader = Credentials(token="w-secret"), Credentials(token="r-secret")
    with world(tmp_path / "state", settings=settings, credentials=writer) as platform:
        assert scenario.run(platform, scenario.a_file(tmp_path)) == 1
        with platform.client() as client:
            assert client.model(scenario.MODEL).actor == "writer-of-the-team"
            assert client.alias(scenario.MODEL).actor == "registry"
            with pytest.raises(PermissionDenied, match="an override of the gate needs the role operator"):
                client.promote(scenario.MODEL, 1, override="I know better")
        with Client(credentials=reader, **platform.addresses) as client:
            assert client.classify(scenario.MODEL, ["kind"]).served.version == 1
            with pytest.raises(PermissionDenied, match="needs the role writer"):
                client.rollback(scenario.MODEL)
        with Client(credentials=Credentials(token="s-secret"), **platform.addresses) as client:
            assert (
                client.promote(scenario.MODEL, 1, override="the test set is wrong").override == "the test set is wrong"
            )
        with Client(**platform.addresses) as client, pytest.raises(Unauthenticated):  # type: ignore[arg-type]
            client.model(scenario.MODEL)
        (tmp_path / "mine").write_text("r-secret\n")
        platform.environment = {"MILLSTREAM_TOKEN_FILE": str(tmp_path / "mine")}
        assert scenario.MODEL in platform.cli("models", "list")
        for path in (tmp_path / "state").rglob("*"):
            if not path.name.endswith(("up.log", ".lock", "lock")):
                assert path.is_symlink() or not path.stat().st_mode & 0o077, f"others may read {path}"
