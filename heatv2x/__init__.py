"""HeatV2X: collaborative perception between agents that carry different sensors and networks."""

import os

from heatv2x.memory import keep_freed_memory

# Idle OpenMP threads must sleep instead of spinning: on shared cores this is worth a factor of three.
# Read by torch at import.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
keep_freed_memory()

__version__ = "0.1.0"
