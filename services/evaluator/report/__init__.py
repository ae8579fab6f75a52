"""The evaluation report: built from figures, drawn as a page."""
