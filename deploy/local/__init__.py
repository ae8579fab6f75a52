"""All services on this machine: `python -m deploy.local`."""
