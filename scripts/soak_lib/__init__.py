"""Parts of `scripts/soak.py`: real processes under load and faults, and a ledger of what they promised."""
