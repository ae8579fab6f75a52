"""From a file to a prediction: `python -m deploy.demo`."""
