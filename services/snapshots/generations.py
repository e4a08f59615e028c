"""Rules about generations: who may commit one, on what, and what its record is.

Pure. The catalog's scripts decide the same again, atomically; these say it in words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from services.chassis.errors import Reason, ServiceError
from services.chassis.names import AgentName

# Chains are compacted long before; only where that lags a save must be a base.
DELTAS_MAX: Final = 64


class Format(StrEnum):
    """What the bytes of a snapshot are."""

    PAGES = "pages"
    OPAQUE = "opaque"


class Kind(StrEnum):
    """What a segment holds."""

    BASE = "base"
    DELTA = "delta"
    OPAQUE = "opaque"


@dataclass(frozen=True, slots=True)
class Segment:
    """One immutable file that a generation is made of; its digest names it."""

    blake3: bytes
    kind: Kind
    size_bytes: int
    page_count: int


@dataclass(frozen=True, slots=True)
class Content:
    """What a generation holds, as its segments tell."""

    format: Format
    size_bytes: int
    page_size_bytes: int
    page_count: int
    segments: tuple[Segment, ...]
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Origin:
    """What the client says about a generation."""

    upload_id: str
    runtime: str = ""
    runtime_version: str = ""
    session_id: str = ""
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Deletion:
    """When a generation was deleted, and until when it can be brought back."""

    time: datetime
    purge_time: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The record of one generation."""

    agent: AgentName
    generation: int
    content: Content
    origin: Origin
    epoch: int
    instance: str
    create_time: datetime
    revision: int = 0  # how often the record was changed since the commit
    hold: bool = False  # until it is released nothing deletes it
    deletion: Deletion | None = None

    @property
    def name(self) -> str:
        return f"{self.agent}/snapshots/{self.generation}"

    @property
    def etag(self) -> str:
        last = self.content.segments[-1].blake3[:8].hex()
        return f"{self.generation}-{self.revision}-{last}"


@dataclass(frozen=True, slots=True)
class Claim:
    """Who asks: the epoch of its lease, its instance and that instance's boot.

    Without an epoch, or with an epoch alone, only whole-file writes get through.
    """

    epoch: int | None = None
    instance: str = ""
    boot_id: str = ""


@dataclass(frozen=True, slots=True)
class AgentState:
    """What fences an agent's commits: who owns it, and what its newest generation is.

    `epoch` 0 was never seen; `last` counts deleted generations as well. `revision`
    moves when the head's record is replaced by another one of the same state, `changes`
    when anything is known that was not, or no more.
    """

    epoch: int = 0
    instance: str = ""
    boot_id: str = ""
    last: int = 0
    head: Snapshot | None = None
    revision: int = 0
    changes: int = field(default=0, compare=False)

    @property
    def head_generation(self) -> int:
        return self.head.generation if self.head else 0


@dataclass(frozen=True, slots=True)
class Addition:
    """A segment that was verified, and what its header says of the whole database."""

    segment: Segment
    size_bytes: int
    page_size_bytes: int = 0
    page_count: int = 0
    fingerprint: bytes = b""


@dataclass(frozen=True, slots=True)
class Standing:
    """The state that a delta was made from."""

    page_size_bytes: int
    page_count: int
    fingerprint: bytes


def check_advance(agent: AgentName, state: AgentState, claim: Claim) -> None:
    """An epoch only rises, and one epoch has one owner for ever."""
    epoch = claim.epoch or 0
    bound = (state.instance, state.boot_id)
    same = bound in ((claim.instance, claim.boot_id), ("", ""))
    if epoch < state.epoch or (epoch == state.epoch and not same):
        raise fenced(agent, state, claim)


def check_claim(agent: AgentName, state: AgentState, claim: Claim) -> None:
    """Only the owner commits; nobody owns an agent whose epoch was never seen."""
    if (claim.epoch or 0) != state.epoch:
        raise fenced(agent, state, claim)
    bound = (state.instance, state.boot_id)
    if claim.instance and bound != (claim.instance, claim.boot_id):
        raise fenced(agent, state, claim)


def fenced(agent: AgentName, state: AgentState, claim: Claim) -> ServiceError:
    holder = state.instance or "nobody"
    shown = "no epoch" if claim.epoch is None else f"epoch {claim.epoch}"
    return ServiceError(
        Reason.LEASE_FENCED,
        f"cannot write {agent} under {shown}: {holder} owns it under epoch "
        f"{state.epoch}; claim the agent again",
        epoch=state.epoch,
        holder=state.instance,
    )


def check_match(agent: AgentName, head: int, wanted: int | None) -> None:
    """The head must be the generation that the caller built upon."""
    if wanted is not None and wanted != head:
        raise ServiceError(
            Reason.GENERATION_MISMATCH,
            f"cannot write {agent}: its head is generation {head}, not {wanted}; "
            "read the head, then decide again",
            generation=head,
        )


def content_with(
    agent: AgentName, head: Snapshot | None, addition: Addition
) -> Content:
    """What a generation holds that adds one segment to the head."""
    segments: tuple[Segment, ...] = (addition.segment,)
    if addition.segment.kind is Kind.DELTA:
        segments = (*chain_of(agent, head), addition.segment)
    opaque = addition.segment.kind is Kind.OPAQUE
    return Content(
        format=Format.OPAQUE if opaque else Format.PAGES,
        size_bytes=addition.size_bytes,
        page_size_bytes=addition.page_size_bytes,
        page_count=addition.page_count,
        segments=segments,
        fingerprint=addition.fingerprint,
    )


def check_parent(
    agent: AgentName, head: Snapshot | None, standing: Standing
) -> tuple[Segment, ...]:
    """The segments that a delta goes on top of, if it was made from the head."""
    chain = chain_of(agent, head)
    assert head is not None, "an agent without a head has no chain"
    found = head.content
    if found.page_size_bytes != standing.page_size_bytes:
        raise parent_mismatch(
            agent,
            f"its pages have {standing.page_size_bytes} bytes, "
            f"the head's {found.page_size_bytes}",
        )
    if (found.page_count, found.fingerprint) != (
        standing.page_count,
        standing.fingerprint,
    ):
        raise parent_mismatch(agent, "it was made from another state than the head")
    return chain


def chain_of(agent: AgentName, head: Snapshot | None) -> tuple[Segment, ...]:
    """The segments that a delta may be added to. Raises PARENT_MISMATCH."""
    if head is None or head.content.format is Format.OPAQUE:
        raise parent_mismatch(agent, "the head holds no pages")
    if len(head.content.segments) > DELTAS_MAX:
        raise parent_mismatch(agent, f"the head has {DELTAS_MAX} deltas already")
    return head.content.segments


def parent_mismatch(agent: AgentName, why: str) -> ServiceError:
    return ServiceError(
        Reason.PARENT_MISMATCH, f"cannot add a delta to {agent}: {why}; send a base"
    )


def prefix_gone(agent: AgentName, why: str) -> ServiceError:
    """The delta itself may be right: without prefixes it rests on the state alone."""
    return ServiceError(
        Reason.PARENT_MISMATCH,
        f"cannot add a delta to {agent}, a page that its prefix names is not in the "
        f"chain any more ({why}); send it without prefixes, or a base",
        resend="without prefix",
    )


def absent(agent: AgentName, generation: int | None) -> ServiceError:
    """Nothing of that number, or nothing at all."""
    which = f"{agent}/snapshots/{generation or 'latest'}"
    return ServiceError(
        Reason.SNAPSHOT_NOT_FOUND,
        f"cannot find {which}: list the snapshots of {agent}",
        name=which,
    )


def head_stays(agent: AgentName, head: int) -> ServiceError:
    return ServiceError(
        Reason.GENERATION_MISMATCH,
        f"cannot delete generation {head} of {agent} alone, it is the head: delete "
        "all with .../snapshots/-",
        generation=head,
    )


def held(agent: AgentName, generation: int) -> ServiceError:
    return ServiceError(
        Reason.SNAPSHOT_HELD,
        f"cannot delete generation {generation} of {agent}, it is held: have an "
        "operator release it (UpdateSnapshot, hold: false), then delete again",
        generation=generation,
    )


def check_live(snapshot: Snapshot) -> None:
    """Whether it can be used: what is deleted is only looked at."""
    if snapshot.deletion is not None:
        until = f"{snapshot.deletion.purge_time:%FT%TZ}"
        raise ServiceError(
            Reason.SNAPSHOT_NOT_FOUND,
            f"cannot use {snapshot.name}, it was deleted: have an operator undelete it "
            f"before {until}",
            name=snapshot.name,
            purge_time=until,
        )
