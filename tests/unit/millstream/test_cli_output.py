"""Output on a terminal and elsewhere."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import pytest

from millstream.cli.format import progress_parts
from millstream.cli.output import Screen, as_dict, escaped, progress_bar, table, write
from millstream.training.v1.training_run_pb2 import TrainingRun
from tests.worlds.fake_services import MODEL


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")


@contextmanager
def terminal() -> Iterator[Terminal]:
    """stdout as a terminal; in the test itself, because pytest sets its own stdout after the fixtures."""
    with redirect_stdout(Terminal()) as screen:
        yield screen


def test_json_has_the_protos_names_and_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert as_dict(MODEL)["spec"]["promotion"] == {"automatic": True}
    assert as_dict(MODEL)["spec"]["preset"] == ""
    Screen(as_json=True).one({"text": "చాలా"}, "unused")
    assert capsys.readouterr().out == '{\n  "text": "చాలా"\n}\n'


def test_a_stream_returns_its_last_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert Screen(as_json=False).stream([{"n": 1}, {"n": 2}], lambda value: f"n is {value['n']}") == {"n": 2}
    assert capsys.readouterr().out == "n is 1\nn is 2\n"
    assert Screen(as_json=True).stream([], str) is None
    Screen(as_json=True).stream([{"n": 1}], str)
    assert json.loads(capsys.readouterr().out) == {"n": 1}


def test_on_a_terminal_a_long_id_is_never_broken() -> None:
    run = "r" * 40
    with terminal() as screen:
        table([{"run": run, "why": "a reason in many words that does not fit beside it"}])
    assert run in screen.getvalue() and "\t" not in screen.getvalue()


RUNS = [
    {"run": f"0198c1a2-0000-7000-8000-00000000000{number}", "model": "telugu-sentiment", "dataset": "reviews 12",
     "state": "succeeded", "validation metrics": "accuracy 0.8125, macro_f1 0.7994", "reason": "-", "created": "2026-09-21"}
    for number in range(2)
]  # fmt: skip


def test_a_table_that_does_not_fit_is_two_lines_a_row_or_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with terminal() as screen:
        table(RUNS)
    lines = screen.getvalue().splitlines()
    assert len(lines) <= 6 and max(map(len, lines)) <= 80
    assert "  model telugu-sentiment, dataset reviews 12, state succeeded, validation" in screen.getvalue()
    assert "reason" not in screen.getvalue(), "what a row does not have is left out"


def test_a_table_that_fits_has_a_line_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    with terminal() as screen:
        table(RUNS)
    assert len(screen.getvalue().splitlines()) == 3


def test_an_empty_table_prints_nothing() -> None:
    with terminal() as screen:
        table([])
    assert screen.getvalue() == ""


def test_only_text_on_a_terminal_is_live() -> None:
    assert not Screen(as_json=False).is_live
    with terminal():
        assert Screen(as_json=False).is_live and not Screen(as_json=True).is_live


def test_a_progress_bar_shows_its_text() -> None:
    with terminal() as screen, progress_bar("training") as bar:
        bar(1, 2, "step 1/2")
    assert "training" in screen.getvalue() and "step 1/2" in screen.getvalue()


def test_a_long_training_shows_step_and_time_left_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = TrainingRun(run_id="r", state=TrainingRun.STATE_RUNNING)
    run.progress.step, run.progress.total_steps, run.progress.loss = 12_345, 20_000, 0.3473
    run.progress.remaining.seconds = 3599
    with terminal() as screen, progress_bar("training") as bar:
        bar(12_345, 20_000, ", ".join(progress_parts(run)))
    assert "step 12345/20000, at most 59 min 59 s to go" in screen.getvalue()


HOSTILE = "\x1b]0;owned\x07 \x9b31m red \u202egnp.exe \x08 end"


def test_what_others_wrote_gives_the_terminal_no_commands(capsys: pytest.CaptureFixture[str]) -> None:
    write(HOSTILE)
    Screen(as_json=False).one({}, HOSTILE)
    Screen(as_json=False).many([{"a": HOSTILE}], lambda value: value)
    Screen(as_json=True).one({"a": HOSTILE}, "")
    write(HOSTILE, error=True)
    shown = capsys.readouterr()
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\x08"} & set(shown.out + shown.err)
    assert "\\u001b]0;owned\\u0007" in shown.out
    with terminal() as screen:
        table([{"a": HOSTILE}])
    assert not {"\x07", "\x9b", "\u202e", "\x08"} & set(screen.getvalue()) and "]0;owned" in screen.getvalue()


def test_json_with_escapes_means_the_same_and_other_text_stays() -> None:
    assert json.loads(escaped(json.dumps({"a": HOSTILE}, ensure_ascii=False))) == {"a": HOSTILE}
    same = "చాలా \u0c15\u0c4d\u200d \u2764\ufe0f\n\tline"
    assert escaped(same) == same


def test_a_cell_makes_no_other_rows_and_columns(capsys: pytest.CaptureFixture[str]) -> None:
    table([{"reason": "one\ntwo\tthree", "n": 1}])
    assert capsys.readouterr().out == "reason\tn\none two three\t1\n"
