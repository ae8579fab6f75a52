"""Whose fault an error of running a model is: this machine's, or the model's."""

import re

_DEVICE = re.compile(
    r"\b(CUDA|HIP|cuDNN|cuBLAS|NCCL)\b.{0,20}\berror\b|\bCU[A-Z]+_STATUS_|can't allocate memory", re.IGNORECASE
)
"""What RuntimeErrors of a device, or of torch's allocator, say."""


def is_of_machine(error: BaseException) -> bool:
    """Whether memory, disk or a device of this machine failed: elsewhere, or later, the same model may run.

    A missing file is none of these, for it may be missing from the model.
    """
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError)
    if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "AcceleratorError"):
        return True
    return isinstance(error, RuntimeError) and _DEVICE.search(str(error)) is not None
