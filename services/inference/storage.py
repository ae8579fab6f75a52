"""What inference stores."""

from servicekit.work.storage import Kind

KINDS = (Kind("refusals", ("refusals/**",)),)
