"""Durable messaging between AI coding assistants.

Importing this package imports nothing else: every process pays for it, hooks included.
"""

__version__ = "0.1.0"
