"""Errors as statuses."""

import re

from millstream import errors
from millstream.errors import InvalidArgument, MillstreamError, to_status


def test_every_error_has_its_own_code_and_a_stable_reason() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MillstreamError)]
    kinds.remove(MillstreamError)
    assert len({kind.code for kind in kinds}) == len(kinds) == 12
    for kind in kinds:
        assert re.fullmatch("[A-Z_]+", kind.default_reason)
        assert kind("x", reason="OTHER").reason == "OTHER"


def test_a_status_always_fits_into_metadata() -> None:
    for sample in ("a", "ä", "తె", "\ud800", "\x00"):
        error = InvalidArgument(sample * 50_000, field=sample * 50_000, name=sample * 50_000)
        assert len(to_status(error).SerializeToString()) < 4096
        assert to_status(error).message.endswith("…")
