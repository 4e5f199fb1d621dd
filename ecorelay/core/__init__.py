"""The hub's decisions: (state, event) to actions, without I/O, clocks or randomness of its own."""
