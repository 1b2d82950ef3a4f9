"""Frame, sound and word in, feature rows out: pure functions shared by what runs live and by training. No sockets, no torch."""
