"""Which errors are the machine's, and which are the model's."""

import errno

import pytest

from recipekit.machine import is_of_machine


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class SafetensorError(Exception):
    """Named as that of safetensors, which tells the operating system's errors in its own."""


MACHINE = [
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    MemoryError(), OSError(errno.ENOSPC, "No space left on device"), PermissionError(13, "denied"), OutOfMemoryError("CUDA"),
    RuntimeError("CUDA error: device-side assert triggered"), RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
]  # fmt: skip
MODEL = [
    SafetensorError("invalid header"), ValueError("No space left on device"),
    FileNotFoundError(2, "no model.json"), KeyError("labels"), ValueError("CUDA error"), ZeroDivisionError(),
    RuntimeError("Error(s) in loading state_dict for Encoder: Missing key(s)"), UnicodeDecodeError("utf-8", b"", 0, 1, "x"),
]  # fmt: skip


@pytest.mark.parametrize("error", [*MACHINE, *MODEL], ids=repr)
def test_a_trouble_of_the_machine_is_told_from_one_of_the_model(error: Exception) -> None:
    assert is_of_machine(error) is (error in MACHINE)
