"""Links between hubs: where the handshake, the dialers and the link itself will live.

Empty in this version: a hub reaches the peers of its own machine only.
"""
