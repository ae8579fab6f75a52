"""How millstream runs outside Kubernetes."""
