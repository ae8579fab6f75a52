"""docs/configuration.md and docs/metrics.md say what the code says."""

import pytest

from tools.generate_docs import pages


@pytest.mark.parametrize("name", ["configuration.md", "metrics.md"])
def test_a_generated_page_is_fresh(name: str) -> None:
    (path,) = (path for path in pages() if path.name == name)
    assert path.read_text() == pages()[path], "run `make docs`"


def test_every_setting_and_every_metric_has_a_sentence() -> None:
    for text in pages().values():
        rows = [line for line in text.splitlines() if line.startswith("| `")]
        assert len(rows) > 20
        assert all(row.rstrip("| ").rpartition("|")[2].strip() for row in rows)
