"""The relay server: where hubs meet that cannot reach each other. It switches ciphertext and keeps nothing.

How it is put together, from the outside in:

====================== ==================================================================================
`main`                 the process: settings, signals
`server`               listens, and does what the ones that decide answer; reload, drain, metrics
`guest`, `head`        a connection before its proof: TLS, the HTTP request, the WebSocket, the hello
`connection`           a hub's connection after it: reads, writes, ends with a reason
`websocket`            frames, without I/O
`door`, `judge`        how many may be in without a proof; whether a hello is one (they decide only)
`switch`               hubs, realms, streams, credit (decides only); `pace`: how fast a hub may go
`outbox`, `record`     what waits for one hub; who came and went
`settings`             relay-config.json, checked; `settings_reader` does the work
`bounds`               how much of everything it bears
`journal`, `metrics`   what it says of itself
====================== ==================================================================================

Importing this package imports none of it.
"""
