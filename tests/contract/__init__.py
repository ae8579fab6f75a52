"""Every adapter passes its port's suite."""

import pytest

pytest.register_assert_rewrite("servicekit.testing.blobs", "servicekit.testing.bus", "servicekit.testing.shared_bus")
