"""From rows to predictions: admission, the queue, batches."""
