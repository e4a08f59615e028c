"""Which pages can have changed since an earlier state of the log: all of them, proven,
or no answer at all.

The proof rests on how SQLite writes its log. It starts a log anew only when every
frame is in the main file; it then adds one to the first salt, and writes over the
old frames from the front. So what lies behind its end is still the log before.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.supervisor.wal_index import LogState
from services.supervisor.wal_log import FrameTable, Log, leftover_frames


class Proof(StrEnum):
    """What the answer stands on."""

    SAME_LOG = "log"  # every frame since is in the log
    TAIL = "tail"  # the log was begun anew once; the end of the old one was read


@dataclass(frozen=True, slots=True)
class Changes:
    """Pages of the later state that may differ from the earlier one."""

    pages: set[int]
    proof: Proof


def changes_since(
    earlier: LogState, now: LogState, table: FrameTable, log: Log, *, held: bool
) -> Changes | None:
    """The pages; None when nothing proves that they are all.

    `table` has been extended to `now`, and a read transaction holds that state; `held`:
    the one that stood on the earlier state is still open as well.
    """
    if earlier.page_size != now.page_size:
        return None
    if earlier.salts == now.salts:
        return _in_one_log(earlier, now, table, log)
    if not now.follows(earlier):
        return None
    if held:
        # A log that a reader stands on is begun anew only if all of it was in the main
        # file when he came: so nothing was added to it. And he keeps the new one out
        # of the main file, so that one was not begun anew in turn.
        pages, sizes = table.pages_after(0), table.commits_after(0)
        return Changes(_completed(pages, sizes, earlier, now), Proof.TAIL)
    return _over_a_restart(earlier, now, table, log)


def _in_one_log(
    earlier: LogState, now: LogState, table: FrameTable, log: Log
) -> Changes | None:
    if earlier.frame > now.frame or not _still_there(earlier, log):
        return None
    pages = table.pages_after(earlier.frame)
    sizes = table.commits_after(earlier.frame)
    return Changes(_completed(pages, sizes, earlier, now), Proof.SAME_LOG)


def _over_a_restart(
    earlier: LogState, now: LogState, table: FrameTable, log: Log
) -> Changes | None:
    # Without a frame of the earlier state nothing tells whether the first frames of
    # its log were written, checkpointed and written over.
    if not earlier.frame:
        return None
    pages = table.pages_after(0)
    sizes = table.commits_after(0)
    ended_with_file = False
    for frame in leftover_frames(log, earlier.frame, earlier.salts):
        if frame is None:
            ended_with_file = True
            break
        pages.add(frame.page)
        if frame.commit_pages:
            sizes.append(frame.commit_pages)
    # Asked only now: as long as this frame is there, those behind it were.
    if not _still_there(earlier, log):
        return None
    if ended_with_file and len(sizes) != (now.change - earlier.change) % (1 << 32):
        return None  # The file may have been cut, and frames with it.
    return Changes(_completed(pages, sizes, earlier, now), Proof.TAIL)


def _still_there(state: LogState, log: Log) -> bool:
    """Whether the log still holds the last frame of that state."""
    if not state.frame:
        return True
    frame = log.frame(state.frame)
    return (
        frame is not None
        and frame.salts == state.salts
        and frame.checksum == state.checksum
    )


def _completed(
    pages: set[int], sizes: list[int], earlier: LogState, now: LogState
) -> set[int]:
    """With the pages that came back after the database had been smaller for a while,
    without those that it has no more."""
    smallest = min([earlier.page_count, *sizes])
    pages.update(range(smallest + 1, now.page_count + 1))
    return {page for page in pages if page <= now.page_count}
