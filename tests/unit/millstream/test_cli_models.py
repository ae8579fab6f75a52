"""`millstream apply | promote | rollback | release | models` on fake services: the calls, the tables and the JSON."""

import json
from pathlib import Path

import pytest

from millstream import Client
from millstream.errors import NotFound
from millstream.inference.v1 import inference_service_pb2 as inference
from millstream.registry.v1 import registry_service_pb2 as registry
from millstream.registry.v1.model_pb2 import AliasEntry, GateRule, Model
from tests.unit.millstream.conftest import Command
from tests.worlds.fake_services import TIME, WEIGHTS, Fakes

HELD = (
    "champion of toy is version 3 (entry 5, rolled back; on hold: no automatic promotion until "
    "`millstream release toy`)\n"
)


def test_apply_sends_the_spec_of_the_file(cli: Command, fakes: Fakes, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("model: toy\npromotion: {automatic: true}\n")
    assert cli("apply", "-f", str(tmp_path / "model.yaml"), "--etag", "6").stdout == (
        "toy is declared (etag 7)\ntrain it: `millstream train toy --watch`\n"
    )
    asked = fakes.last(registry.ApplyModelRequest)
    assert (asked.spec.model, asked.spec.promotion.automatic, asked.etag) == ("toy", True, "6")
    assert json.loads(cli("apply", "-f", str(tmp_path / "model.yaml"), "-o", "json").stdout)["etag"] == "7"


def no_model_yet(monkeypatch: pytest.MonkeyPatch, fakes: Fakes) -> None:
    """Nothing is declared, and what is applied has no version."""

    def missing(*_: object) -> Model:
        raise NotFound("no model mine")

    monkeypatch.setattr(Client, "model", missing)
    fakes.answers[registry.ListModelVersionsResponse] = registry.ListModelVersionsResponse()
    made = Model(name="mine", etag="1")
    made.spec.training.automatic = True
    fakes.answers[registry.ApplyModelResponse] = registry.ApplyModelResponse(model=made)


def test_a_new_model_needs_no_file(cli: Command, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    no_model_yet(monkeypatch, fakes)
    assert cli("apply", "mine", "-d", "words", "--preset", "toy").stdout.splitlines() == [
        "mine is declared (etag 1)",
        "wait until it is trained, evaluated and served: `millstream served mine --wait 1`",
    ]
    spec = fakes.last(registry.ApplyModelRequest).spec
    assert (spec.model, spec.recipe, spec.preset, spec.dataset) == ("mine", "toy_words", "toy", "words")
    assert spec.training.automatic and spec.promotion.automatic


def test_a_declared_model_does_not_lose_what_its_file_says(cli: Command, fakes: Fakes) -> None:
    assert "toy is declared otherwise" in cli("apply", "toy", "-d", "words", code=1).stderr
    assert not any(isinstance(request, registry.ApplyModelRequest) for request in fakes.requests)


@pytest.mark.parametrize("words", [(), ("toy",), ("toy", "-d", "words", "-f", __file__), ("-d", "words")])
def test_a_model_is_applied_by_a_file_or_by_its_name(words: tuple[str, ...], cli: Command) -> None:
    assert "give a file with -f" in " ".join(cli("apply", *words, code=2).stderr.replace("│", " ").split())


def test_promote_sends_every_option(cli: Command, fakes: Fakes) -> None:
    words = ("--reason", "r", "--override", "o", "--alias", "shadow", "--etag", "4")
    assert cli("promote", "toy", "3", *words).exit_code == 0
    asked = fakes.last(registry.PromoteModelVersionRequest)
    assert (asked.model, asked.version, asked.reason, asked.override) == ("toy", 3, "r", "o")
    assert (asked.alias, asked.etag) == ("shadow", "4") and asked.request_id


def test_a_promotion_says_whether_callers_get_it(cli: Command) -> None:
    """An alias of a typing error was moved, with exit code 0 and no word of it."""
    assert cli("promote", "toy", "3").stdout == HELD
    first, second = cli("promote", "toy", "3", "--alias", "chmapion").stdout.splitlines()
    assert first == "chmapion of toy is version 3 (entry 5, rolled back)"
    assert "inference does not serve chmapion of toy until serving.aliases of the model's spec has it" in second


def test_rollback_goes_to_the_version_before_or_the_named_one(cli: Command, fakes: Fakes) -> None:
    assert cli("rollback", "toy").stdout == HELD
    assert fakes.last(registry.RollbackAliasRequest).version == 0
    assert json.loads(cli("rollback", "toy", "2", "--reason", "r", "-o", "json").stdout)["hold"] is True
    asked = fakes.last(registry.RollbackAliasRequest)
    assert (asked.version, asked.reason, asked.alias) == (2, "r", "champion")


def test_release_frees_the_alias(cli: Command, fakes: Fakes) -> None:
    shown = cli("release", "toy", "--reason", "r").stdout
    assert shown == "champion of toy is version 3 (entry 6, released; free for automatic promotion)\n"
    assert fakes.last(registry.ReleaseAliasRequest).reason == "r"


def test_models_are_listed(cli: Command) -> None:
    assert cli("models", "list").stdout.splitlines() == [
        "model\trecipe\tdataset\ttraining\tpromotion\tupdated\tchampion",
        "toy\ttoy_words\twords\tmanual\tautomatic\t2026-09-21 14:13:20\tversion 3, on hold",
    ]
    (model,) = json.loads(cli("models", "list", "-o", "json").stdout)
    assert (model["name"], model["actor"], model["spec"]["recipe"]) == ("toy", "ada", "toy_words")


def test_a_list_of_models_asks_for_no_alias_that_came_with_it(cli: Command, fakes: Fakes) -> None:
    named = [
        AliasEntry(alias="champion", version=2, number=1),
        AliasEntry(alias="champion"),
        AliasEntry(alias="champion", number=2, problem="a/b is damaged"),
    ]
    models = [Model(name="toy", aliases=[AliasEntry(alias="shadow", version=9), entry]) for entry in named]
    fakes.answers[registry.ListModelsResponse] = registry.ListModelsResponse(models=models)
    lines = cli("models", "list").stdout.splitlines()[1:]
    assert [line.split("\t")[-1] for line in lines] == ["version 2", "-", "a/b is damaged"]
    assert not any(isinstance(request, registry.GetAliasRequest) for request in fakes.requests)


def test_a_model_is_shown(cli: Command) -> None:
    assert cli("models", "show", "toy").stdout.splitlines() == [
        "toy: recipe toy_words",
        "toy: dataset words",
        "toy: training manual",
        "toy: promotion automatic",
        "toy: updated 2026-09-21 14:13:20",
        "toy: etag 7, by ada",
        "toy: champion version 3, rolled back 2026-09-21 14:13:20 by ada (a slip); "
        "on hold: nothing is promoted automatically until `millstream release toy`",
        "toy: gate none",
    ]
    assert json.loads(cli("models", "show", "toy", "-o", "json").stdout)["etag"] == "7"


def test_a_model_is_shown_with_every_alias_and_its_gate(cli: Command, fakes: Fakes) -> None:
    rule = GateRule(metric="accuracy", at_least=0.8, over_champion=0.01)
    model = Model(name="toy", present_gate=[rule, GateRule(metric="loss", at_most=2, over_baseline=-0.5)])
    model.spec.serving.aliases[:] = ["champion", "shadow"]
    fakes.answers[registry.GetModelResponse] = registry.GetModelResponse(model=model)
    canary = AliasEntry(
        model="toy", alias="canary", version=2, action=AliasEntry.ACTION_PROMOTED, actor="ada", time=TIME
    )
    fakes.answers[registry.ListAliasesResponse] = registry.ListAliasesResponse(
        entries=[canary, AliasEntry(model="toy", alias="champion", version=1, problem="a/b is damaged")]
    )
    assert cli("models", "show", "toy").stdout.splitlines()[-4:] == [
        "toy: champion: a/b is damaged",
        "toy: shadow names no version yet",
        "toy: canary version 2, promoted 2026-09-21 14:13:20 by ada; inference does not serve it (serving.aliases)",
        "toy: gate accuracy at least 0.8, at least +0.01 over the champion; loss at most 2, at least -0.5 over the baseline",
    ]
    shown = json.loads(cli("models", "show", "toy", "-o", "json").stdout)
    assert [entry["alias"] for entry in shown["aliases"]] == ["canary", "champion"]


def test_a_champion_that_is_free_or_names_nothing_is_not_on_hold(
    cli: Command, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = AliasEntry(
        model="toy", alias="champion", version=4, action=AliasEntry.ACTION_RELEASED, actor="ada", time=TIME
    )
    monkeypatch.setattr(fakes, "entry", free)
    assert cli("models", "list").stdout.splitlines()[1].endswith("\tversion 4")
    shown = cli("models", "show", "toy").stdout.splitlines()
    assert shown[-2] == "toy: champion version 4, released 2026-09-21 14:13:20 by ada"
    monkeypatch.setattr(fakes, "entry", None)
    assert cli("models", "list").stdout.splitlines()[1].endswith("\t-")
    assert cli("models", "show", "toy").stdout.splitlines()[-2] == "toy: champion names no version yet"


def test_a_version_is_shown_with_its_lineage(cli: Command, fakes: Fakes) -> None:
    assert cli("models", "show", "toy", "--alias", "shadow").stdout.splitlines() == [
        "toy version 3 of 2026-09-21 14:13:20, validation: accuracy 0.7500",
        "run run-1, 2 attempts, seed 42, 8 cores",
        "not bit-exact from step 6 on: torch 2.9.0, not 2.8.0",
        "dataset words 4 (snap-4)",
        "recipe toy_words, code 0123456789ab with changes",
        "artifact artifact-1, 70 bytes",
    ]
    assert fakes.last(registry.GetModelVersionRequest).alias == "shadow"
    found = json.loads(cli("models", "show", "toy", "--version", "3", "-o", "json").stdout)
    assert (found["version"], found["lineage"]["seed"]) == ("3", "42")


def test_versions_are_listed(cli: Command) -> None:
    assert cli("models", "versions", "toy").stdout.splitlines() == [
        "version\tvalidation metrics\tdataset\trun\tcreated",
        "3\taccuracy 0.7500\twords 4\trun-1\t2026-09-21 14:13:20",
    ]
    (found,) = json.loads(cli("models", "versions", "toy", "-o", "json").stdout)
    assert (found["version"], found["metrics"]) == ("3", {"accuracy": 0.75})


def test_the_history_of_an_alias_is_listed(cli: Command, fakes: Fakes) -> None:
    table = [
        "entry\tversion\taction\thold\tactor\treason\ttime",
        "5\t3\trolled back\ton hold\tada\ta slip\t2026-09-21 14:13:20",
    ]
    assert cli("models", "aliases", "toy").stdout.splitlines() == table
    assert cli("models", "aliases", "toy", "--alias", "shadow", "--at", "2026-09-21").stdout.splitlines() == table
    asked = fakes.last(registry.AliasAtRequest)
    assert (asked.alias, asked.time.seconds) == ("shadow", 1_789_948_800)
    (entry,) = json.loads(cli("models", "aliases", "toy", "-o", "json").stdout)
    assert (entry["number"], entry["action"]) == ("5", "ACTION_ROLLED_BACK")


def test_an_artifact_is_downloaded(cli: Command, fakes: Fakes, tmp_path: Path) -> None:
    assert (
        cli("models", "download", "toy", str(tmp_path / "a")).stdout == f"toy version 3: 1 file in {tmp_path / 'a'}\n"
    )
    assert (tmp_path / "a/deep/weights").read_bytes() == WEIGHTS
    assert fakes.last(registry.GetModelVersionRequest).alias == "champion"


def test_problems_of_loading_are_listed_and_a_version_is_tried_again(cli: Command, fakes: Fakes) -> None:
    assert cli("models", "problems").stdout.splitlines() == [
        "model\talias\tversion\trefused\treason",
        "toy\tchampion\t4\there\tno memory",
    ]
    shown = cli("models", "retry", "toy", "4", "--note", "mended").stdout
    assert shown == "toy version 4 is tried again: lifted the refusal 'golden row 0'\n"
    asked = fakes.last(inference.RetryModelVersionRequest)
    assert (asked.model, asked.version, asked.note) == ("toy", 4, "mended")
    cli("models", "retry", "toy", "0", code=2)
