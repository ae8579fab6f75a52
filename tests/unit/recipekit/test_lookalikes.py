"""Labels that a person would read as one."""

from recipekit.lookalikes import look


def test_labels_that_a_person_reads_as_one_look_alike() -> None:
    assert look("Good") == look(" good") == look("g\u200bood\ufe0f\U000e0100") and look("1e1") == look("10")
    assert look("1") != look("true") and look("1_0") != look("10")
