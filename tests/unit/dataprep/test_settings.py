"""Dataprep's limits come from its environment."""

import pytest

from services.dataprep.settings import Settings


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr("sys.argv", ["dataprep"])
    monkeypatch.setattr("os.environ", {"PATH": "/bin"})
    return monkeypatch


def test_the_defaults_serve_one_machine() -> None:
    settings = Settings.read()
    assert (settings.listen, settings.metrics_listen) == ("127.0.0.1:50051", "127.0.0.1:9101")
    assert settings.upload_limit_bytes < settings.unpacked_limit_bytes


def test_limits_are_read_and_a_limit_of_nothing_is_refused(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("MILLSTREAM_UPLOAD_LIMIT_BYTES", "5000")
    environment.setenv("MILLSTREAM_UNPACKED_LIMIT_BYTES", "7000")
    settings = Settings.read()
    assert (settings.upload_limit_bytes, settings.unpacked_limit_bytes) == (5000, 7000)
    for name in ("MILLSTREAM_UPLOAD_LIMIT_BYTES", "MILLSTREAM_UNPACKED_LIMIT_BYTES"):
        environment.setenv(name, "0")
        with pytest.raises(SystemExit):
            Settings.read()
        assert name in capsys.readouterr().err
        environment.setenv(name, "1")
