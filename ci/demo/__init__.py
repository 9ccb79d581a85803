"""`build-server demo`: the whole way of a push on this machine, GitHub stood in for."""
