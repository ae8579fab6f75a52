"""How facts are written: ledgers, leases, the outbox and its events."""
