"""What travels between agents: the message, its codecs, the channel, and what an ego makes of a reported pose."""
