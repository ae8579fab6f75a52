"""From prepared rows to predictions: admission, the queue, batches."""
