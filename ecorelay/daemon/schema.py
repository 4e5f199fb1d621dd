"""The tables of hub.db, version by version.

Numbers stand for people and messages: `no` of a peer (also of its mailbox, then called `box`), `mid` of
a message. Both only rise, and neither is given twice, whatever was deleted since: a receipt, a reply or a
notice that names one can never meet another. Times are milliseconds since 1970 UTC, 0 is never.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 4
"""`PRAGMA user_version` of a file this program writes."""
APPLICATION_ID: Final = 0x45434F52
"""``ECOR``: tells `file` and us whose database it is."""

SEEN: Final = 0
UNREAD: Final = 1
"""`ring.state`. In key order, a ring lists what leaves it first: the seen by age, then the unread by age."""

EVICTED: Final = 1
DEAD: Final = 2
EXPIRED: Final = 3
"""`receipts.outcome`; 0: it was seen, nothing more to say. `reason` tells why it is dead or expired."""

KINDS: Final = ("message", "ask", "reply", "room", "group", "system")
"""`messages.kind` is the place in this list, which therefore only grows."""
KIND_NUMBERS: Final = {name: number for number, name in enumerate(KINDS)}
SYSTEM: Final = KIND_NUMBERS["system"]

_BLOCKS: Final = """
-- Who may not send: our own by number, under their name of now; those of other hubs by address. key is
-- address in lower case.
CREATE TABLE blocks (
    key TEXT PRIMARY KEY,
    address TEXT NOT NULL,
    no INTEGER,
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX blocks_no ON blocks (no);
"""

_FAR: Final = """
-- Other hubs, and the peers they told us of. complete: of all. last_seq: the latest in the outbox,
-- given once. outbox_bytes: of what lies in it.
CREATE TABLE hubs (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    hub_id TEXT NOT NULL,
    complete INTEGER NOT NULL DEFAULT 0,
    seen_at INTEGER NOT NULL DEFAULT 0,
    last_seq INTEGER NOT NULL DEFAULT 0,
    outbox_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE directory (
    hub_no INTEGER NOT NULL,
    peer_id TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (hub_no, peer_id)
) STRICT, WITHOUT ROWID;

-- What waits for a hub; body is the frame as it is sent, box the recipient's number. Lines of groups that
-- live here have no mid, since there is no receipt of them: box is then their group's number, negated.
CREATE TABLE outbox (
    hub_no INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    msg_id TEXT NOT NULL,
    mid INTEGER,
    box INTEGER NOT NULL,
    body BLOB NOT NULL,
    size INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (hub_no, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX outbox_box ON outbox (hub_no, box);
CREATE INDEX outbox_mid ON outbox (mid);

-- direction 0: ours, number is the seq before its first frame, and none beyond ended was sent in it, if that
-- is set; 1: theirs, number is the highest committed.
-- place: order of beginning. rejected: JSON, (number, code, message) of frames that were refused.
CREATE TABLE streams (
    hub_no INTEGER NOT NULL,
    direction INTEGER NOT NULL,
    stream TEXT NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    place INTEGER NOT NULL,
    rejected TEXT NOT NULL DEFAULT '[]',
    ended INTEGER,
    PRIMARY KEY (hub_no, direction, stream)
) STRICT, WITHOUT ROWID;
"""

_FAR_SENDERS: Final = """
-- Whether there is mail of another hub's peer.
CREATE INDEX messages_far ON messages (sender_no) WHERE origin > 0;
"""

TABLES: Final = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;

-- Peers. hub is empty for our own; rows of mail know local and remote ones alike by number.
CREATE TABLE peers (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    peer_id TEXT NOT NULL,
    hub TEXT NOT NULL DEFAULT '',
    name TEXT NOT NULL,
    auto INTEGER NOT NULL DEFAULT 0,
    client TEXT NOT NULL DEFAULT '',
    cwd TEXT NOT NULL DEFAULT '',
    git_branch TEXT NOT NULL DEFAULT '',
    created INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    UNIQUE (hub, peer_id)
) STRICT;

-- Names of our own peers, in lower case: the current ones (until 0) and those that forward for a while.
CREATE TABLE names (
    key TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    no INTEGER NOT NULL,
    until INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX names_no ON names (no);

CREATE TABLE identities (
    client TEXT NOT NULL,
    identity TEXT NOT NULL,
    no INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (client, identity)
) STRICT, WITHOUT ROWID;
CREATE INDEX identities_no ON identities (no, at);

CREATE TABLE places (
    client TEXT NOT NULL,
    cwd TEXT NOT NULL,
    no INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (client, cwd, no)
) STRICT, WITHOUT ROWID;
CREATE INDEX places_no ON places (no);

-- What lies in each ring, so that nothing is ever counted by reading it.
CREATE TABLE mailboxes (
    box INTEGER PRIMARY KEY,
    entries INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    unread INTEGER NOT NULL
) STRICT;

-- Every message and every line of a group, once. The row outlives the text, for receipts and to
-- recognise what is sent again. origin: 0 for our own peers, else hubs.no; for lines of a group of another
-- hub its number, negated. A sole recipient is in box,
-- several are in boxes (JSON), a line of a group is at group_no, seq. refs: rings that hold a text of
-- several recipients. checksum: see store_mail.
CREATE TABLE messages (
    mid INTEGER PRIMARY KEY,
    msg_id TEXT NOT NULL,
    origin INTEGER NOT NULL DEFAULT 0,
    kind INTEGER NOT NULL,
    sender_no INTEGER NOT NULL,
    sender TEXT NOT NULL,
    at INTEGER NOT NULL,
    size INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    box INTEGER,
    boxes TEXT,
    refs INTEGER NOT NULL DEFAULT 0,
    group_no INTEGER,
    seq INTEGER,
    reply_to TEXT,
    broadcast_id TEXT,
    urgent INTEGER NOT NULL DEFAULT 0,
    hops INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX messages_id ON messages (msg_id, origin);

-- The text, UTF-8, for as long as a ring holds it. Apart, so that what stays of a message is small and the
-- pages of texts become free as a whole.
CREATE TABLE bodies (mid INTEGER PRIMARY KEY, text BLOB NOT NULL) STRICT;

-- One row per message and mailbox it lies in. sender: who is told when it leaves unread (0: nobody).
-- handed: it was given out, and nobody confirmed that it was seen.
CREATE TABLE ring (
    box INTEGER NOT NULL,
    state INTEGER NOT NULL,
    mid INTEGER NOT NULL,
    size INTEGER NOT NULL,
    sender INTEGER NOT NULL,
    shared INTEGER NOT NULL,
    handed INTEGER NOT NULL DEFAULT 0,
    seen_at INTEGER NOT NULL DEFAULT 0,
    replied_at INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (box, state, mid)
) STRICT, WITHOUT ROWID;

-- What is known of a message and recipient once it left the ring, or went to another hub.
CREATE TABLE receipts (
    mid INTEGER NOT NULL,
    box INTEGER NOT NULL,
    forwarded_at INTEGER NOT NULL DEFAULT 0,
    seen_at INTEGER NOT NULL DEFAULT 0,
    replied_at INTEGER NOT NULL DEFAULT 0,
    outcome INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    ended_at INTEGER NOT NULL,
    PRIMARY KEY (mid, box)
) STRICT, WITHOUT ROWID;

-- The last time a carrier took a message for a recipient. Apart from the ring, whose rows lie scattered over
-- the mailboxes: these are written in the order of mids, so that a commit touches few pages.
CREATE TABLE pushes (
    mid INTEGER NOT NULL,
    box INTEGER NOT NULL,
    at INTEGER NOT NULL,
    carrier TEXT NOT NULL,
    PRIMARY KEY (mid, box)
) STRICT, WITHOUT ROWID;

-- To a sender: total of its messages to about_no ended so; it confirmed that it was told of told. about: the
-- last name of a peer that was removed.
CREATE TABLE notices (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sender_no INTEGER NOT NULL,
    about_no INTEGER NOT NULL,
    reason TEXT NOT NULL,
    total INTEGER NOT NULL,
    told INTEGER NOT NULL DEFAULT 0,
    at INTEGER NOT NULL,
    about TEXT,
    UNIQUE (sender_no, about_no, reason)
) STRICT;

-- Groups. hub is empty for those that live here, else the key of the hub where they do; key is the name in
-- lower case. The ring holds the lines first to last, last is 0 before the first one. far: members that are
-- peers of other hubs. roster: JSON, all members of a group of another hub, as that hub tells them.
CREATE TABLE groups (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id TEXT NOT NULL,
    hub TEXT NOT NULL DEFAULT '',
    key TEXT NOT NULL,
    name TEXT NOT NULL,
    admin_no INTEGER NOT NULL,
    first INTEGER NOT NULL DEFAULT 1,
    last INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    far INTEGER NOT NULL DEFAULT 0,
    roster TEXT NOT NULL DEFAULT '[]',
    UNIQUE (hub, key)
) STRICT;

-- place: order of joining. own_last: the newest line of its own that it had not read up to. leaving: it is
-- out as far as this hub is concerned, and the group's hub has not said so yet: one more than the line before
-- the invitation that it left. A peer of another hub has as cursor the line before its invitation.
CREATE TABLE group_members (
    group_no INTEGER NOT NULL,
    no INTEGER NOT NULL,
    place INTEGER NOT NULL,
    cursor INTEGER NOT NULL,
    own_last INTEGER NOT NULL DEFAULT 0,
    leaving INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (group_no, no)
) STRICT, WITHOUT ROWID;
CREATE INDEX group_members_no ON group_members (no);

CREATE TABLE group_log (
    group_no INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    mid INTEGER NOT NULL,
    sender_no INTEGER NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (group_no, seq)
) STRICT, WITHOUT ROWID;

-- Answers to mutating requests.
CREATE TABLE ops (
    no INTEGER NOT NULL,
    op_id TEXT NOT NULL,
    request INTEGER NOT NULL,
    reply BLOB NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (no, op_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX ops_at ON ops (at);

{_FAR}{_BLOCKS}{_FAR_SENDERS}"""

UPGRADES: Final[dict[int, str]] = {
    1: f"ALTER TABLE notices ADD COLUMN about TEXT;{_BLOCKS}",
    # Nothing was ever written into these.
    2: f"DROP TABLE hubs; DROP TABLE directory; DROP TABLE outbox; DROP TABLE streams;{_FAR}"
    "ALTER TABLE groups ADD COLUMN far INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE groups ADD COLUMN roster TEXT NOT NULL DEFAULT '[]';"
    "ALTER TABLE group_members ADD COLUMN leaving INTEGER NOT NULL DEFAULT 0;",
    3: _FAR_SENDERS,
}
"""From each older version to the next: the statements that make it so."""
