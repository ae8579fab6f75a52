"""A fact is done once every key that it gave was reconciled after it."""

from servicekit.work.obligations import Obligations
from tests.worlds.work import ThingKey

ONE, OTHER = ThingKey("one"), ThingKey("other")


def test_a_fact_of_two_keys_is_done_once_both_are_settled() -> None:
    obligations = Obligations()
    obligations.add("fact", [ONE, OTHER])
    assert obligations.settle(ONE, obligations.of(ONE)) == [], "the other key still stands for it"
    assert obligations.has("fact")
    assert obligations.settle(OTHER, obligations.of(OTHER)) == ["fact"]
    assert not obligations.has("fact")


def test_a_fact_that_came_while_its_key_was_reconciled_waits_for_the_next_reconcile() -> None:
    obligations = Obligations()
    obligations.add("early", [ONE])
    before = obligations.of(ONE)
    obligations.add("late", [ONE])
    assert obligations.settle(ONE, before) == ["early"]
    assert obligations.of(ONE) == {"late"} and obligations.has("late")


def test_nothing_is_kept_of_what_is_done() -> None:
    obligations = Obligations()
    obligations.add("fact", [ONE, OTHER])
    for key in (ONE, OTHER):
        obligations.settle(key, obligations.of(key))
    assert not obligations._facts and not obligations._keys, "it grows with everything that ever was"
