"""How millrace runs outside Kubernetes."""
