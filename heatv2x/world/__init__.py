"""The synthetic world: towns, traffic and sensors, written to disk in the OPV2V-H layout.

Everything in this package is right-handed (x forward, y left, z up; metres, radians, seconds); only `writer` knows
CARLA.
"""

WORLD_VERSION = 1
