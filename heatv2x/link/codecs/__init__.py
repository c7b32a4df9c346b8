"""How a feature becomes bytes, and what that costs in precision."""
