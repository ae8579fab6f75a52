"""Addresses of one or several replicas; a list that gRPC cannot use is an error."""

import pytest

from millstream.channel import open_sync_channel
from millstream.errors import InvalidArgument


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "127.0.0.1:1,127.0.0.1:2", "[::1]:1,[::1]:2"])
def test_addresses_that_can_be_used(address: str) -> None:
    open_sync_channel(address).close()


@pytest.mark.parametrize("address", ["one:1,two:2", "127.0.0.1:1,[::1]:1", "127.0.0.1:1,"])
def test_a_list_of_names_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument, match="a list takes IP addresses"):
        open_sync_channel(address)
