"""The catalog imports nothing that its listing does not hold."""

import pytest

from recipekit.catalog import Catalog, UnknownRecipe


def test_recipes_of_all_packages_are_listed() -> None:
    names = Catalog(("recipes", "tests.recipes")).names()
    assert "toy_words" in names and "siamese_sentiment" in names


@pytest.mark.parametrize("name", ["nothing", "../toy_words", "os", "toy_words.spec", ""])
def test_a_name_that_is_not_listed_is_refused_and_never_imported(name: str) -> None:
    with pytest.raises(UnknownRecipe, match="there are"):
        Catalog(("tests.recipes",)).spec(name)
