"""Nothing lost, doubled or stuck, whatever dies or goes away: one scenario, three faults a run."""
