"""Nothing lost, doubled or stuck, whatever fault is injected: one scenario, three faults a run."""
