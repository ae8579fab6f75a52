"""Registry: models, their versions, and which version each alias names."""
