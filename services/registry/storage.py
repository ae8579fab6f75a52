"""What the registry stores. All of it is kept: it is the history of the models."""

from servicekit.work.storage import Kind

KINDS = (Kind("models", ("models/**", "ledger-blocks/models/**")),)
