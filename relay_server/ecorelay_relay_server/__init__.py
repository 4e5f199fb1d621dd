"""The relay server: the rendezvous process by which hubs behind NAT will find each other.

Empty in this version: there is nothing here to run yet.
"""
