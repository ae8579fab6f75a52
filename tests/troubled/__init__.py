"""Recipes whose models misbehave, for tests of what runs models; the recipes' suite does not know them."""
