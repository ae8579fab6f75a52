"""The arithmetic of a training run: chosen once, named as its lineage names it, and kept for later attempts."""

import json
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipekit import hardware
from recipekit.backends.torch import device

torch = pytest.importorskip("torch")

from recipekit.training import numerics  # noqa: E402


def chosen(precision: numerics.Precision, model: Any, step: Any = None) -> numerics.Numerics:
    values = numerics.choose(precision, 1, model, step or (lambda autocast: None))
    return numerics.recorded(json.loads(json.dumps(values)))


def test_the_processor_is_the_one_that_the_lineage_names() -> None:
    first = chosen("fp32", torch.nn.Linear(2, 1))
    assert first.processor == hardware.processor()
    assert (first.dtype, first.threads) == ("fp32", 1)
    assert first.device == ("cuda" if torch.cuda.is_available() else "cpu")


def test_another_processor_or_device_is_no_longer_bit_exact() -> None:
    here = chosen("fp32", torch.nn.Linear(2, 1))
    assert numerics.differs(here) is None
    assert numerics.differs(replace(here, processor="another")) == (
        f"began on {here.device} (another), continues on {here.device} ({here.processor})"
    )
    assert numerics.differs(replace(here, device="tpu"))


def test_measuring_leaves_weights_gradients_and_generators_as_they_were() -> None:
    model = torch.nn.Linear(4, 1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    used: list[bool] = []

    def step(autocast: AbstractContextManager[Any]) -> None:
        with autocast:
            used.append(torch.is_autocast_enabled(device()))
            model(torch.rand(2, 4)).sum().backward()
        with torch.no_grad():
            model.weight.add_(1)

    assert chosen("auto", model, step).dtype in ("fp32", "bf16")
    assert set(used) == {True, False}, "both precisions are measured"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_an_operation_without_a_bf16_kernel_leaves_fp32() -> None:
    def step(autocast: AbstractContextManager[Any]) -> None:
        with autocast:
            if torch.is_autocast_enabled(device()):
                raise RuntimeError("not implemented for 'BFloat16'")

    assert chosen("auto", torch.nn.Linear(2, 1), step).dtype == "fp32"


def test_the_environment_of_an_artifact_says_where_it_was_no_longer_exact(tmp_path: Path) -> None:
    here = chosen("fp32", torch.nn.Linear(2, 1))
    numerics.write_environment(tmp_path, here, ["step 4: began elsewhere"])
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["numerics"]["processor"] == here.processor
    assert torch.__version__.startswith(environment["packages"]["torch"]) and "python" in environment["packages"]
    assert environment["departures"] == ["step 4: began elsewhere"]
