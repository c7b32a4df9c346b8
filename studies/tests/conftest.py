"""What the package's tests share holds here, too: one torch thread per process, a cache folder of their own."""

from tests.conftest import golden, own_cache

__all__ = ["golden", "own_cache"]
