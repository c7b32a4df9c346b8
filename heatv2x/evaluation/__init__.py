"""How good, how much, at what cost: evaluation as agents would run, metrics under named protocols, and the report."""
