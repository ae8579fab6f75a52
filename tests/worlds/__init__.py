"""What the tests run on: platforms, services in part, servers."""
