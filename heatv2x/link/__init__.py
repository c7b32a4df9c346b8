"""What travels between agents: the message, its codecs, the channel, and how an ego corrects a reported pose."""
