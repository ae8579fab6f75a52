"""The generated pages: each setting and metric with its meaning; tests/house/test_generated_docs.py keeps them fresh."""

from millstream.defaults import SERVICES
from tools.generate_docs import configuration, metrics, pages


def test_the_page_of_settings_has_common_ones_once_and_each_services_own() -> None:
    page = configuration()
    lines = page.splitlines()
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == [
        "Every service", *SERVICES, "The training worker",
    ]  # fmt: skip
    common = [line for line in lines if line.startswith("| `MILLSTREAM_BLOBS` |")]
    assert len(common) >= 1 and all(line.count(" | ") >= 2 for line in common)
    before, _, dataprep = page.partition("## dataprep")
    assert "MILLSTREAM_UPLOAD_LIMIT_BYTES" not in before
    assert "MILLSTREAM_UPLOAD_LIMIT_BYTES" in dataprep.partition("## trainer")[0]


def test_the_page_of_metrics_has_type_and_labels() -> None:
    sections = metrics().split("\n## ")
    assert [section.partition("\n")[0] for section in sections[1:]] == ["Every service", *SERVICES]
    assert any("| gauge |" in line for line in sections[1].splitlines())


def test_both_pages_have_a_place() -> None:
    assert [path.name for path in pages()] == ["configuration.md", "metrics.md"]
