"""HeatV2X: collaborative perception between agents that carry different sensors and networks."""

__version__ = "0.2.0"
