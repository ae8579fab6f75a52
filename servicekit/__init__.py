"""What every service needs, and nothing about machine learning."""
