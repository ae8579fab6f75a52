"""How long the whole way takes beyond the training itself."""
