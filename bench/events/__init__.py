"""How long an event takes to the service that handles it, and how many get there, beside a bare kafka-python."""
