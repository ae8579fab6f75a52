"""From start to stop of a service: settings, backends, probes, status, the server."""
