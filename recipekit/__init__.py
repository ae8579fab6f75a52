"""What every recipe needs and nothing about the platform: a recipe runs alone in a notebook."""
