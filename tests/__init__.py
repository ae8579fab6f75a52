"""What proves millrace: unit, contract, integration, e2e and chaos tests; see DESIGN in docs."""
