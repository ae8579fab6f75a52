"""A processor's kind is named alike everywhere, and two kinds never get one name."""

import platform

import pytest

from recipekit import hardware

# As Linux writes it: two tabs follow the short keys, one the long ones.
EPYC = (
    "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nstepping\t: 1\n"
    "microcode\t: 0x1000065\ncpu MHz\t\t: 2596.132\nflags\t\t: fpu vme de\n\nprocessor\t: 1\nmodel name\t: another\n"
)
GRAVITON = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"
GPUS = "0, GPU-aa11, NVIDIA H200\n1, GPU-bb22, NVIDIA H200\n2, GPU-cc33, NVIDIA L4\n"


def test_a_cpu_is_named_by_name_family_and_model() -> None:
    assert hardware.cpu_model(EPYC) == "AMD EPYC / 25 / 17"
    assert hardware.cpu_model(GRAVITON) == "0x41 / 0xd40"


def test_two_generations_of_one_name_are_two_kinds() -> None:
    assert hardware.cpu_model(EPYC) != hardware.cpu_model(EPYC.replace("model\t\t: 17", "model\t\t: 1"))


def test_a_machine_that_names_no_cpu_has_an_architecture() -> None:
    assert hardware.cpu_model("") in (platform.processor(), platform.machine())


@pytest.mark.parametrize(
    ("visible", "products"),
    [
        (None, "NVIDIA H200, NVIDIA L4"),
        ("0,1", "NVIDIA H200"),
        ("2", "NVIDIA L4"),
        ("GPU-cc", "NVIDIA L4"),
        ("MIG-1234", "NVIDIA H200, NVIDIA L4"),
        ("", ""),
        ("-1", ""),
        ("0,-1,2", "NVIDIA H200"),
        ("7", ""),
    ],
)
def test_each_gpu_product_that_cuda_may_see_is_named_once(visible: str | None, products: str) -> None:
    assert hardware.visible_gpus(GPUS, visible) == products


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        (None, ["GPU-aa11", "GPU-bb22", "GPU-cc33"]),
        ("2,0", ["GPU-cc33", "GPU-aa11"]),
        ("GPU-c", ["GPU-cc33"]),
        ("MIG-1234", ["MIG-1234"]),
        ("", []),
        ("0,-1,2", ["GPU-aa11"]),
        ("7", []),
    ],
)
def test_each_gpu_has_one_name_however_a_setting_names_it(visible: str | None, ids: list[str]) -> None:
    assert list(hardware.gpus_of(GPUS, visible)) == ids
    assert hardware.gpus_of("", visible) == {}


def test_a_machine_without_the_driver_has_no_gpu() -> None:
    assert hardware.visible_gpus("", None) == ""


def test_hidden_gpus_leave_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hardware.processor.cache_clear()
    try:
        assert hardware.processor() == hardware.cpu_model(hardware._cpu_listing())
    finally:
        hardware.processor.cache_clear()
