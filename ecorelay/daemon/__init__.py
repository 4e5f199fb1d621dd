"""The hub's doing: sockets, disk, clock and processes around the core that decides."""
