"""The hub as a function: (state, event) to actions. No I/O, no clock, no ids of its own, no logging.

`Hub.handle` never waits, so any task may call it: nothing can interleave and cancellation cannot hit
half-way. What to do with a session's frame is one table, what to do after a commit another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, assert_never

from msgspec import Struct

from ecorelay import names, wire
from ecorelay.core import (
    admin,
    canary,
    delivery,
    directory,
    far_groups,
    far_rooms,
    far_trace,
    group_history,
    group_posts,
    group_sync,
    groups,
    hooks,
    links,
    mailbox,
    messages,
    moderation,
    outbox,
    peers,
    replay,
    rooms,
    sessions,
    watch,
)
from ecorelay.core.actions import Action, Store
from ecorelay.core.events import (
    ClockJumped,
    Event,
    HubsConfigured,
    LinkFrame,
    LinkLost,
    LinkUp,
    Now,
    ProcessChecked,
    SessionClosed,
    SessionFrame,
    SessionOpened,
    Stored,
    StoreFailed,
    Tick,
)
from ecorelay.core.ops import FindOp, FoundOp, Housekeep, HousekeepingDone
from ecorelay.core.state import State
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecorelay.core.ops import OpResult, Snapshot
    from ecorelay.core.records import Session
    from ecorelay.limits import Limits

HOUSEKEEPING_S = 600.0
HOUSEKEEPING_SOON_S = 1.0
FIRST_HOUSEKEEPING_S = 60.0


class HousekeepingDue(Struct, frozen=True):
    """Timer note."""


class HouseKept(Struct, frozen=True):
    """Note: a round of housekeeping is done."""


class Hub:
    """The decisions of one hub.

    Args:
        hub_id: this hub's name in the federation.
        version: of the program, for `hub status`.
        new_id: makes an id from wall milliseconds (`ecorelay.names.new_id`).
        limits: what a person may set.
        snapshot: the durable state the store was found with.
    """

    def __init__(
        self,
        *,
        hub_id: str,
        version: str,
        new_id: Callable[[int], str],
        limits: Limits,
        snapshot: Snapshot,
    ) -> None:
        self.state = State(hub_id=hub_id, version=version, new_id=new_id, limits=limits, snapshot=snapshot)
        self._housekeeping = False
        self._idle_since = 0.0

    @property
    def counters(self) -> dict[str, int]:
        """Drops, evictions and refusals by reason since the start."""
        return self.state.counters

    @property
    def idle_since(self) -> float | None:
        """Mono time since which no session is open and nothing is in the store; 0.0 before the first one."""
        return None if self.state.sessions or self.state.outstanding else self._idle_since

    def knows_hub(self, hub_id: str) -> bool:
        """Whether another hub is known by this name, in any case: listed in `hub_details`, up or not."""
        return names.key(hub_id) in self.state.hubs

    def next_deadline(self) -> float | None:
        """Mono time by which a `Tick` is due, if any. Cheap: asked after every event."""
        s = self.state
        due = s.next_timer()
        if s.delivery_waits and (due is None or s.delivery_waits[0][0] < due):
            due = s.delivery_waits[0][0]
        if s.pushed_due and (due is None or s.pushed_due < due):
            due = s.pushed_due
        return due

    def handle(self, event: Event, now: Now) -> list[Action]:
        """Take one event in, give the actions it leads to, in the order they are to be performed."""
        s = self.state
        out = s.out = []
        match event:
            case SessionFrame():
                self._frame(s, event, now)
            case Stored():
                s.outstanding -= 1
                self._stored(s, event.then, event.results, now)
            case StoreFailed():
                s.outstanding -= 1
                self._store_failed(s, event, now)
            case Tick():
                self._tick(s, now)
            case SessionOpened():
                sessions.opened(s, event.sid, event.hello, event.pid, now)
            case SessionClosed():
                s.count("closed " + event.reason)
                sessions.closed(s, event.sid, now)
                self._idle_since = now.mono
            case ProcessChecked():
                sessions.process_checked(s, event, now)
            case LinkFrame():
                links.frame(s, event, now)
            case LinkUp():
                links.up(s, event, now)
            case LinkLost():
                links.lost(s, event, now)
            case HubsConfigured():
                links.configured(s, event)
            case ClockJumped():
                sessions.jumped(s, now)
            case _:  # pragma: no cover
                assert_never(event)
        if s.untold:
            group_sync.tell_again(s)
        if s.renamed:
            group_sync.tell_renamed(s, now)
        if s.rooms_changed:
            far_rooms.tell_changed(s, now)
        if s.changed or s.gone:
            directory.flush(s, now)
        for action in out:
            if type(action) is Store:
                s.outstanding += 1
        return out

    # --- frames --------------------------------------------------------------------------------------

    def _frame(self, s: State, event: SessionFrame, now: Now) -> None:
        session = s.sessions.get(event.sid)
        if session is None:  # it was just taken over; its last frames are nobody's
            return
        session.heard = now.mono
        frame = event.frame
        if isinstance(frame, wire.Mutation) and frame.resend and not replay.by_msg_id(frame):
            self._look_up(s, session, frame, now)
            return
        self._dispatch(s, session, frame, now)

    def _dispatch(self, s: State, session: Session, frame: wire.FromSession, now: Now) -> None:
        try:
            _ON_FRAME[type(frame)](s, session, frame, now)
        except RelayError as error:
            if isinstance(frame, replay.Letter) and frame.resend:
                replay.refuse(s, session, frame, error)
                return
            code, message = error.code, error.message
            if isinstance(frame, wire.RoomSend) and frame.resend:
                code, message = replay.perhaps_said(code, message)
            s.fail(session.sid, getattr(frame, "req_id", 0), code, message)

    def _look_up(self, s: State, session: Session, frame: wire.Mutation, now: Now) -> None:
        if session.peer is None or isinstance(frame, wire.RoomSend):
            # Rooms are not stored; their recent op ids are in memory.
            self._dispatch(s, session, frame, now)  # type: ignore[arg-type]
            return
        op = FindOp(no=session.peer.no, op_id=frame.op_id)
        s.out.append(Store((op,), replay.Resume(session.sid, frame)))

    # --- after a commit ------------------------------------------------------------------------------

    def _stored(self, s: State, then: Any, results: tuple[OpResult, ...], now: Now) -> None:
        first: Any = results[0] if results else None
        match then:
            case None | mailbox.LeaseFreed() | directory.DirectorySaved():
                pass
            case messages.MailStored():
                messages.mail_stored(s, then, first, now)
            case messages.ReplyStored():
                messages.reply_stored(s, then, first, now)
            case messages.BroadcastStored():
                messages.broadcast_stored(s, then, results, now)
            case outbox.OutStored():
                outbox.stored(s, then, first, now)
            case outbox.OutLoading():
                outbox.loaded(s, then, first, now)
                group_sync.caught_up(s, then.link)
            case outbox.OutResumed():
                outbox.resumed(s, then, first, now)
                group_sync.caught_up(s, then.link)
            case outbox.OutGone():
                outbox.settled(s, then, first, now)
            case links.LinkKnown():
                links.known(s, then, first, now)
            case links.HubAdded():
                links.added(s, then, first)
            case links.FrameTaken():
                links.taken(s, then, first, now)
            case delivery.BacklogLoaded():
                delivery.backlog_loaded(s, then, first, now)
            case mailbox.PageReady():
                mailbox.page_ready(s, then, first, now)
            case mailbox.MailConfirmed():
                mailbox.mail_confirmed(s, then, first, now)
            case hooks.HookProved():
                hooks.proved(s, then, first, now)
            case sessions.Identified():
                s.reply(then.sid, then.answer)
            case sessions.PeerAdded():
                sessions.peer_added(s, then, first, now)
            case sessions.SessionBound():
                opened: Any = results[-1]
                sessions.bound(s, then, opened, now)
            case peers.PeerRenamed():
                peers.renamed(s, then, now)
            case peers.AddressAdded():
                peers.address_added(s, then, first)
            case peers.PeersDropped():
                peers.peers_dropped(s, then, first)
            case moderation.PeerForgotten():
                moderation.forgotten(s, then, results, now)
            case moderation.BlockSet():
                moderation.block_set(s, then)
            case moderation.HubForgot():
                moderation.hub_forgotten(s, then, results, now)
            case admin.MessageFound():
                admin.traced(s, then, first, now)
            case far_trace.FarTraced():
                far_trace.found(s, then, first, now)
            case admin.MailSized():
                admin.sized(s, then, first)
            case admin.BackupMade():
                admin.backed_up(s, then, first)
            case admin.Purging():
                admin.purged(s, then, first, now)
            case groups.GroupCreated():
                groups.created(s, then, first, now)
            case groups.MemberAdded():
                groups.member_added(s, then, first, now)
            case groups.MemberRemoved():
                told: Any = results[-1]
                groups.member_removed(s, then, first, told, now)
            case groups.GroupDropped():
                told = results[-1]
                groups.dropped(s, then, first, told, now)
            case groups.LineStored():
                groups.line_stored(s, then, first, now)
            case group_history.HistoryReady():
                group_history.history_ready(s, then, first, now)
            case group_history.HistoryConfirmed():
                group_history.confirmed(s, then, first)
            case group_posts.PostQueued():
                far_groups.post_queued(s, then, first, now)
            case group_posts.MembersLeft():
                far_groups.members_left(s, then, results, now)
            case far_groups.LeavesSent():
                far_groups.leaves_sent(s, first, now)
            case group_sync.StatesReady():
                group_sync.states_ready(s, then, first)
            case group_sync.StatesCompared():
                group_sync.states_compared(s, then, first, now)
            case group_sync.AskReady():
                group_sync.ask_ready(s, then, first)
            case group_sync.LinesReady():
                group_sync.lines_ready(s, then, first)
            case group_sync.PageTaken():
                group_sync.page_taken(s, then, first, now)
            case group_sync.ReplicaEnded():
                group_sync.replica_ended(s, then, first, now)
            case replay.Resume():
                self._resume(s, then, first, now)
            case replay.Refused():
                replay.refused(s, then, first)
            case HouseKept():
                self._house_kept(s, first, now)
            case _:
                raise AssertionError(f"no way to go on after {type(then).__name__}")

    def _resume(self, s: State, note: replay.Resume, kept: FoundOp | None, now: Now) -> None:
        session = s.sessions.get(note.sid)
        if session is None:
            return
        if kept is not None:
            replay.found(s, session, note.frame, kept)
        else:
            self._dispatch(s, session, note.frame, now)  # type: ignore[arg-type]

    def _store_failed(self, s: State, event: StoreFailed, now: Now) -> None:
        """Nothing happened: undo what was reserved, and tell whoever asked."""
        then = event.then
        s.count(f"store_failed {event.code}")
        match then:
            case sessions.PeerAdded():
                sessions.peer_add_failed(s, then, event.code, event.message)
            case sessions.SessionBound():
                sessions.bind_failed(s, then, event.code, event.message, now)
            case hooks.HookProved():
                hooks.prove_failed(s, then)
            case delivery.BacklogLoaded():
                delivery.backlog_failed(s, then, now)
            case outbox.OutLoading():
                outbox.load_failed(s, then, now)
            case outbox.OutResumed():
                links.resume_failed(s, then, event.message, now)
            case links.LinkKnown():
                links.known_failed(s, then, event.message, now)
            case links.FrameTaken():
                links.take_failed(s, then, event)
            case group_sync.StatesReady():
                group_sync.states_failed(s, then, now)
            case group_sync.LinesReady():
                group_sync.lines_failed(s, then, event)
            case group_sync.AskReady() | group_sync.PageTaken():
                group_sync.ask_failed(s, then, now)
            case group_sync.StatesCompared():
                group_sync.compare_failed(s, then, now)
            case group_sync.ReplicaEnded() | far_groups.LeavesSent():
                pass  # the next link finds it so again
            case outbox.OutGone():
                outbox.settle_failed(s, then, now)
            case directory.DirectorySaved():
                directory.save_failed(s, then, now)
            case links.HubAdded():
                pass  # the next start knows it
            case mailbox.PageReady():
                s.fail(then.sid, then.request.req_id, event.code, event.message)
                mailbox.page_failed(s, then, now)
            case mailbox.MailConfirmed():
                s.fail(then.sid, then.confirm.req_id, event.code, event.message)
                mailbox.confirm_failed(s, then, now)
            case mailbox.LeaseFreed():
                mailbox.free_failed(s, then, now)
            case group_history.HistoryReady():
                s.fail(then.sid, then.request.req_id, event.code, event.message)
                group_history.history_failed(s, then, now)
            case peers.PeersDropped():
                peers.peers_dropped(s, then, None)
            case moderation.PeerForgotten():
                moderation.forget_failed(s, then, event, now)
            case (
                messages.MailStored()
                | messages.ReplyStored()
                | outbox.OutStored()
                | groups.LineStored()
                | group_posts.PostQueued()
            ):
                replay.store_refused(s, then, event)
            case (
                group_history.HistoryConfirmed()
                | moderation.BlockSet()
                | admin.MessageFound()
                | admin.BackupMade()
            ):
                s.fail(then.sid, then.req_id, event.code, event.message)
            case moderation.HubForgot():
                moderation.forget_hub_failed(s, then, event, now)
            case far_trace.FarTraced():
                far_trace.not_found(s, then)
            case admin.MailSized():
                admin.not_sized(s, then, event.message)
            case admin.Purging():
                admin.purge_failed(s, then, event.code, event.message)
            case replay.Resume():
                s.fail(then.sid, then.frame.req_id, event.code, event.message)
            case replay.Refused():
                replay.not_found(s, then, event)
            case messages.BroadcastStored():
                s.fail(then.sid, then.frame.req_id, event.code, event.message)
            case HouseKept():
                s.at(now.mono + HOUSEKEEPING_S, HousekeepingDue())
            case None:
                pass
            case _:
                self._undo(s, then, event)

    def _undo(self, s: State, then: Any, event: StoreFailed) -> None:
        match then:
            case groups.GroupCreated():
                groups.create_failed(s, then)
            case peers.PeerRenamed():
                peers.rename_failed(s, then)
            case peers.AddressAdded():
                peers.add_failed(s, then)
            case groups.MemberAdded():
                groups.add_failed(s, then)
            case (
                groups.MemberRemoved()
                | groups.GroupDropped()
                | group_posts.MembersLeft()
                | sessions.Identified()
            ):
                pass
            case _:
                raise AssertionError(f"no way to go on after {type(then).__name__}")
        s.fail(then.sid, then.answer.req_id, event.code, event.message)

    # --- time ----------------------------------------------------------------------------------------

    def _tick(self, s: State, now: Now) -> None:
        if not self._housekeeping:
            self._housekeeping = True
            s.at(now.mono + FIRST_HOUSEKEEPING_S, HousekeepingDue())
        delivery.expire_waits(s, now)
        if s.pushed_due and s.pushed_due <= now.mono:
            delivery.flush_pushed(s)
        while (note := s.due(now.mono)) is not None:
            match note:
                case canary.CanaryLost():
                    canary.lost(s, note, now)
                case hooks.RingDue():
                    hooks.ring_due(s, note, now)
                case delivery.BacklogDue():
                    delivery.backlog_due(s, note)
                case group_sync.AskDue():
                    group_sync.ask_due(s, note)
                case far_rooms.RoomAskEnds():
                    far_rooms.ask_ends(s, note)
                case far_rooms.ListsDue():
                    far_rooms.lists_due(s)
                case far_rooms.GuestsLapse():
                    far_rooms.guests_lapse(s, note)
                case group_sync.RenamesDue():
                    group_sync.renames_due(s)
                case group_sync.StatesDue():
                    group_sync.states_due(s, note)
                case outbox.OutDue():
                    outbox.due(s, note)
                case outbox.Unanswered():
                    outbox.unanswered(s, note, now)
                case links.Begins():
                    links.begins(s, note, now)
                case links.Closes():
                    links.closes(s, note)
                case outbox.GoneDue():
                    outbox.gone_due(s, note, now)
                case directory.DirectoryDue():
                    directory.due(s, note, now)
                case far_trace.TraceEnds():
                    far_trace.ends(s, note)
                case messages.AskingEnds():
                    messages.asking_ends(s, note)
                case mailbox.LeaseEnds():
                    mailbox.lease_ends(s, note, now)
                case mailbox.WaitEnds():
                    mailbox.wait_ends(s, note)
                case mailbox.LeaseFreed():
                    mailbox.free_again(s, note, now)
                case group_history.HistoryLapses():
                    group_history.history_lapses(s, note)
                case sessions.PingDue():
                    sessions.ping_due(s, note, now)
                case sessions.Claim():
                    sessions.claim_step(s, note, now)
                case HousekeepingDue():
                    s.out.append(Store((Housekeep(now=now.wall, away=links.away(s)),), HouseKept()))
                    peers.forget_unused(s, now)
                case _:
                    raise AssertionError(f"no timer note: {type(note).__name__}")

    def _house_kept(self, s: State, result: HousekeepingDone, now: Now) -> None:
        s.forwards = {key: kept for key, kept in s.forwards.items() if kept[1] > now.wall}
        for each in result.expired:
            outbox.expired(s, each, now)
        s.at(now.mono + (HOUSEKEEPING_SOON_S if result.more else HOUSEKEEPING_S), HousekeepingDue())


# --- frames that lead to nothing ------------------------------------------------------------------------


def _second_hello(s: State, session: Session, _frame: wire.Hello, _now: Now) -> None:
    raise RelayError("already_registered", "this connection said hello before: open another one")


def _nothing(_s: State, _session: Session, _frame: wire.Frame, _now: Now) -> None:
    """Pong and bye: that the session was heard is all there is to it; the shell closes after bye."""


_ON_FRAME: dict[type[wire.Frame], Callable[[State, Session, Any, Now], None]] = {
    wire.Hello: _second_hello,
    wire.Send: messages.send,
    wire.Reply: messages.reply,
    wire.Broadcast: messages.broadcast,
    wire.Inbox: mailbox.inbox,
    wire.Confirm: mailbox.confirm,
    wire.Release: mailbox.release,
    wire.Cancel: mailbox.cancel,
    wire.Pushed: delivery.pushed,
    wire.PushFailed: delivery.push_failed,
    wire.Peers: peers.peers,
    wire.AddPeer: peers.add_peer,
    wire.Rename: peers.rename,
    wire.Join: rooms.join,
    wire.Leave: rooms.leave,
    wire.RoomSend: rooms.room_send,
    wire.Rooms: rooms.rooms,
    wire.GroupCreate: groups.create,
    wire.GroupInvite: groups.invite,
    wire.GroupRemove: groups.remove,
    wire.GroupLeave: groups.leave,
    wire.GroupDelete: groups.delete,
    wire.GroupForget: group_posts.forget,
    wire.GroupSend: groups.group_send,
    wire.GroupHistory: group_history.history,
    wire.GroupConfirm: group_history.confirm,
    wire.GroupRelease: group_history.release,
    wire.Groups: groups.groups,
    wire.GroupInfo: groups.info,
    wire.Hook: hooks.hook,
    wire.Printed: hooks.printed,
    wire.Identify: sessions.identify,
    wire.ForgetPeer: moderation.forget,
    wire.Block: moderation.block,
    wire.Blocks: moderation.blocks,
    wire.ForgetHub: moderation.forget_hub,
    wire.Watch: watch.watch,
    wire.Probe: canary.probe,
    wire.CanaryAnswer: canary.answered,
    wire.Trace: admin.trace,
    wire.Purge: admin.purge,
    wire.Backup: admin.backup,
    wire.HubStatus: admin.status,
    wire.HubReload: admin.reload,
    wire.HubStop: admin.stop,
    wire.Pong: _nothing,
    wire.Bye: _nothing,
}
