"""What SqliteBus promises in time: wake-up, idle cost, take-over, throughput."""
