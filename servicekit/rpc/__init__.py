"""What surrounds a call: authentication, trace, errors, metrics, health."""
