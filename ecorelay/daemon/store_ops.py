"""Which function does which op, and what the group commit needs to know of ops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ecorelay.core import group_ops, link_ops, ops
from ecorelay.daemon import (
    store_backup,
    store_far_groups,
    store_groups,
    store_link_runs,
    store_links,
    store_mail,
    store_moderation,
    store_pages,
    store_peers,
    store_purge,
    store_reply,
    store_saved,
    store_trace,
    store_upkeep,
)
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ecorelay.core.ops import Op, OpResult
    from ecorelay.daemon.store_ledger import Ledger

    Run = Callable[[Ledger, Sequence[Any]], Sequence[tuple[OpResult, ...] | RelayError] | None]

DO: Final[dict[type[Op], Callable[[Ledger, Any], OpResult]]] = {
    ops.AddPeer: store_peers.add_peer,
    ops.NotePeer: store_peers.note_peer,
    ops.RememberPeer: store_peers.remember_peer,
    ops.RenamePeer: store_peers.rename_peer,
    ops.DropPeers: store_peers.drop_peers,
    ops.ForgetPeer: store_moderation.forget_peer,
    ops.SetBlock: store_moderation.set_block,
    ops.OpenMailbox: store_pages.open_mailbox,
    ops.AppendReply: store_reply.reply,
    ops.LoadBacklog: store_pages.load_backlog,
    ops.MarkPushed: store_mail.mark_pushed,
    ops.ReadPage: store_pages.read_page,
    ops.ConfirmMail: store_pages.confirm,
    ops.EndLease: store_pages.end_lease,
    ops.CreateGroup: store_groups.create_group,
    ops.AddMember: store_groups.add_member,
    ops.RemoveMember: store_groups.remove_member,
    ops.DropGroup: store_groups.drop_group,
    ops.AppendGroup: store_groups.append_group,
    ops.ReadHistory: store_groups.read_history,
    ops.MoveCursor: store_groups.move_cursor,
    ops.SaveOp: store_upkeep.save_op,
    ops.FindOp: store_upkeep.find_op,
    ops.FindMail: store_mail.find_mail,
    ops.Housekeep: store_upkeep.housekeep,
    ops.TraceMessage: store_trace.trace,
    ops.MeasureMail: store_trace.measure,
    ops.PurgeMail: store_purge.purge,
    ops.WriteBackup: store_backup.want,
    link_ops.KnowHub: store_links.know_hub,
    link_ops.ResumeOut: store_links.resume_out,
    link_ops.AppendOut: store_links.append_out,
    link_ops.LoadOut: store_links.load_out,
    link_ops.SettleOut: store_links.settle_out,
    link_ops.Receive: store_far_groups.receive,
    link_ops.SaveDirectory: store_links.save_directory,
    link_ops.ForgetHub: store_far_groups.forget_hub,
    group_ops.ReadHeads: store_far_groups.read_heads,
    group_ops.ReadLines: store_far_groups.read_lines,
    group_ops.TakePage: store_far_groups.take_page,
    group_ops.TakeEnd: store_far_groups.take_end,
    group_ops.Leave: store_far_groups.leave,
    group_ops.SendLeaves: store_far_groups.send_leaves,
}


def _of_one_op(do: Callable[[Ledger, Sequence[Any]], Sequence[OpResult] | None]) -> Run:
    def run(ledger: Ledger, units: Sequence[Any]) -> list[Any] | None:
        results = do(ledger, [op for (op,) in units])
        if results is None:
            return None
        return [each if isinstance(each, RelayError) else (each,) for each in results]

    return run


RUNS: Final[dict[tuple[type[Op], ...], Run]] = {
    (ops.AppendMail,): _of_one_op(store_mail.append),
    (ops.AppendMail, ops.SaveOp): store_saved.append_saved,
    (link_ops.AppendOut,): _of_one_op(store_link_runs.append_outs),
    (link_ops.Receive,): _of_one_op(store_link_runs.receive_all),
}
"""What does many units of these ops at once: the results of each or what refuses it; None where it cannot."""
APART: Final = frozenset({ops.MarkPushed, ops.EndLease, ops.NotePeer, ops.RememberPeer, ops.FindOp})
"""Neither change nor show what an append changes: they need not wait for the appends before them. (But an
answer that is looked for may be one that is kept beside an append.)"""
READS: Final = frozenset(
    {
        ops.ReadPage,
        ops.LoadBacklog,
        ops.OpenMailbox,
        ops.ReadHistory,
        ops.FindOp,
        ops.FindMail,
        ops.EndLease,
        ops.NotePeer,
        ops.RememberPeer,
        ops.TraceMessage,
        ops.MeasureMail,
        ops.WriteBackup,
        link_ops.LoadOut,
        group_ops.ReadHeads,
        group_ops.ReadLines,
    }
)
"""Can be done on a disk that takes no writes, so that what is stored stays readable: their marks
(handed out, last seen) are then left out."""
REPEATABLE: Final = READS | {
    ops.MarkPushed,
    ops.ConfirmMail,
    ops.MoveCursor,
    ops.Housekeep,
    ops.SetBlock,
    link_ops.KnowHub,
    link_ops.SaveDirectory,
}
"""Done twice, they are done once, with the same result: whether a commit that reported an error took place
need not be known."""
