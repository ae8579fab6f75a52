"""Every adapter passes its port's suite."""

import pytest

pytest.register_assert_rewrite("servicekit.testing.bus", "servicekit.testing.blobs")
