"""How much an agent sends: measured lengths of packed messages, never a formula over tensor shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class LinkLoad:
    """What went over the air during an evaluation.

    Attributes:
        message_bytes: mean packed size of a message, that is per sender and frame; 0 if no agent sent.
        frame_bytes: mean of what one ego received per frame, frames without a message included.
        n_messages, n_frames: what went in.
        rate_hz: frames per second that the rates assume.
    """

    message_bytes: float
    frame_bytes: float
    n_messages: int
    n_frames: int
    rate_hz: float = 10.0

    @property
    def sender_mbit_per_s(self) -> float:
        """Mean rate of one sender, 10^6 bits per second, without headers below the message (UDP, radio)."""
        return self.message_bytes * 8 * self.rate_hz / 1e6

    @property
    def received_mbit_per_s(self) -> float:
        """Mean rate that one ego receives from all senders, 10^6 bits per second."""
        return self.frame_bytes * 8 * self.rate_hz / 1e6

    def to_dict(self) -> dict[str, float]:
        """The fields and rates by name, for JSON."""
        rates = {"sender_mbit_per_s": self.sender_mbit_per_s, "received_mbit_per_s": self.received_mbit_per_s}
        return {**asdict(self), **rates}


def measure_link_load(frames: Iterable[Sequence[int]], rate_hz: float = 10.0) -> LinkLoad:
    """Sum up an evaluation.

    Args:
        frames: for every frame the packed lengths in bytes of the messages that were sent to the ego.
        rate_hz: frames per second.
    """
    sizes = [list(frame) for frame in frames]
    total, n_messages = sum(map(sum, sizes)), sum(map(len, sizes))
    return LinkLoad(total / max(n_messages, 1), total / max(len(sizes), 1), n_messages, len(sizes), rate_hz)
