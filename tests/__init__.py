"""What proves millstream: unit, contract, integration, e2e and chaos tests; see DESIGN in docs."""
