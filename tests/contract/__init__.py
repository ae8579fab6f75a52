"""Every adapter passes its port's suite."""

import pytest

pytest.register_assert_rewrite(
    "tests.suites.blobs", "tests.suites.shared_blobs", "tests.suites.bus", "tests.suites.shared_bus"
)
