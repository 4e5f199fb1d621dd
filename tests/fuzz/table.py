"""All targets, by name."""

from __future__ import annotations

from tests.fuzz import adapters, cores, files, links, local, relays, shown

TARGETS = {
    each.name: each
    for each in (
        *local.TARGETS,
        *links.TARGETS,
        *relays.TARGETS,
        *adapters.TARGETS,
        *files.TARGETS,
        *shown.TARGETS,
        *cores.TARGETS,
    )
}
