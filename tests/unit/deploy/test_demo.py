"""deploy.demo: its options and what it shows; tests/e2e/test_demo.py runs it."""

from pathlib import Path

import pytest

from deploy.demo.__main__ import arguments, find, platform, servers, shorten
from deploy.demo.flow import Flow, StageFailed
from millstream import Client
from millstream.errors import FailedPrecondition


def test_options() -> None:
    options = arguments([])
    assert (options.recipe, options.world, options.state, options.json_only) == (
        "siamese_sentiment",
        "local",
        None,
        False,
    )
    assert arguments(["--world", "kafka-minio", "--state", "x"]).state == Path("x")
    with pytest.raises(SystemExit):
        arguments(["--world", "elsewhere"])


def test_a_recipe_is_found_with_its_model_and_a_row_without_its_label() -> None:
    demo = find("toy_words")
    assert (demo.model, set(demo.row)) == (demo.spec["model"], {"text"})
    assert (demo.folder / "sample.jsonl").is_file()
    with pytest.raises(StageFailed, match="nothere"):
        find("nothere")


def test_long_lists_are_shortened_at_any_depth() -> None:
    assert shorten({"a": [1, 2], "b": {"c": list(range(10))}}, 3) == {"a": [1, 2], "b": {"c": [0, 1, 2, "… 10 in all"]}}


def test_the_local_world_needs_no_server(tmp_path: Path) -> None:
    with servers("local", tmp_path) as settings:
        assert settings == {}


def test_a_platform_that_does_not_start_is_a_failed_stage_with_its_log(tmp_path: Path) -> None:
    with (tmp_path / "up.log").open("w+") as log, platform(tmp_path, {"odd": "1"}, log) as ready:
        with pytest.raises(StageFailed, match="no service has the setting MILLSTREAM_ODD") as failed:
            ready()
        assert failed.value.stage == "start"


def test_an_error_inside_a_stage_is_that_stages_failure() -> None:
    with Client() as client:
        flow = Flow(client)
        with pytest.raises(StageFailed, match="not yet") as failed, flow.stage("train"):
            raise FailedPrecondition("not yet")
    assert failed.value.stage == "train" and flow.seconds["train"] >= 0
