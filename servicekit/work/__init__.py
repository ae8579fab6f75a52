"""How work is done: the queue of keys, the consumer that feeds it, dead letters."""
