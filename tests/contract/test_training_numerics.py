"""The arithmetic of a training run: chosen once, named as its lineage names it, and kept for later attempts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from recipekit import hardware

torch = pytest.importorskip("torch")

from recipekit.training import numerics  # noqa: E402


def chosen(precision: numerics.Precision) -> numerics.Numerics:
    return numerics.recorded(json.loads(json.dumps(numerics.choose(precision, 1))))


def test_the_processor_is_the_one_that_the_lineage_names() -> None:
    first = chosen("fp32")
    assert first.processor == hardware.processor()
    assert (first.dtype, first.threads) == ("fp32", 1)
    assert first.device == ("cuda" if torch.cuda.is_available() else "cpu")


def test_another_processor_or_device_is_no_longer_bit_exact() -> None:
    here = chosen("fp32")
    assert numerics.differs(here) is None
    assert numerics.differs(replace(here, processor="another")) == (
        f"began on {here.device} (another), continues on {here.device} ({here.processor})"
    )
    assert numerics.differs(replace(here, device="tpu"))


@pytest.mark.parametrize(
    ("where", "native", "dtype"), [("cpu", True, "fp32"), ("cuda", True, "bf16"), ("cuda", False, "fp32")]
)
def test_auto_depends_on_the_kind_of_processor_alone(
    monkeypatch: pytest.MonkeyPatch, where: str, native: bool, dtype: str
) -> None:
    monkeypatch.setattr(numerics, "device", lambda: where)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert chosen("auto").dtype == dtype
    assert (chosen("fp32").dtype, chosen("bf16").dtype) == ("fp32", "bf16")


def test_the_environment_of_an_artifact_says_where_it_was_no_longer_exact(tmp_path: Path) -> None:
    here = chosen("fp32")
    numerics.write_environment(tmp_path, here, ["step 4: began elsewhere"])
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["numerics"]["processor"] == here.processor
    assert torch.__version__.startswith(environment["packages"]["torch"]) and "python" in environment["packages"]
    assert environment["departures"] == ["step 4: began elsewhere"]
