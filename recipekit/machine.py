"""Whose fault an error of running a model is: this machine's, or the model's."""

import errno
import os
import re

_DEVICE = re.compile(
    r"\b(CUDA|HIP|cuDNN|cuBLAS|NCCL)\b.{0,20}\berror\b|\bCU[A-Z]+_STATUS_|can't allocate memory", re.IGNORECASE
)
"""What RuntimeErrors of a device, or of torch's allocator, say."""
SYSTEM_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors of the operating system that pass: the disk is full or fails, files or memory are short."""
_SYSTEM = re.compile("|".join(re.escape(os.strerror(number)) for number in SYSTEM_NUMBERS), re.IGNORECASE)
_OF_THE_DATA = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError)


def tells_of_system(error: BaseException) -> bool:
    """Whether an error is one of SYSTEM_NUMBERS, also where a library raises one of its own, as safetensors does."""
    if isinstance(error, OSError):
        return error.errno in SYSTEM_NUMBERS
    return not isinstance(error, _OF_THE_DATA) and _SYSTEM.search(str(error)) is not None


def is_of_machine(error: BaseException) -> bool:
    """Whether memory, disk or a device of this machine failed: elsewhere, or later, the same model may run.

    A missing file is none of these, for it may be missing from the model.
    """
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError)
    if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "AcceleratorError"):
        return True
    if tells_of_system(error):
        return True
    return isinstance(error, RuntimeError) and _DEVICE.search(str(error)) is not None
