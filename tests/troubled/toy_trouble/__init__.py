"""The toy recipe, but its model misbehaves as its artifact asks."""
