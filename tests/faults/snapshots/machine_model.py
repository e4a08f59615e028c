"""What must be true of an agent's generations: the plain model of `machine`."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from typing import Final

from services.chassis.names import AgentName
from services.snapshots.generations import DELTAS_MAX, Claim
from tests.support import segments as made
from tests.support.upload_frames import Save, base, delta, file

TOWN: Final = "town-1"
INSTANCES: Final = [f"towns/{TOWN}/instances/{name}" for name in ("one", "two")]
BOOTS: Final = ["boot-1", "boot-2"]
NOBODY: Final = Claim(0)
BLANK: Final = made.image(4)


@dataclass
class Made:
    """An upload, and what it would make."""

    save: Save
    image: made.Image | None  # None: it holds no pages
    deltas: int = 0
    parent: made.Image | None = None  # what a delta was made from; None for all others
    acknowledged: bool = False


@dataclass
class Kept:
    """A generation that exists."""

    made: Made
    made_at_s: float


@dataclass
class Agent:
    """Who owns it, and which generations it has."""

    name: AgentName
    owner: Claim = NOBODY
    last: int = 0
    head: int = 0
    kept: dict[int, Kept] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        return self.owner.epoch or 0

    @property
    def image(self) -> made.Image | None:
        """The pages of the head."""
        return self.kept[self.head].made.image if self.head else None

    def yields_to(self, claim: Claim) -> bool:
        """Whether such a claim takes or keeps the agent."""
        same = claim == self.owner or not self.owner.instance
        epoch = claim.epoch or 0
        return epoch > self.epoch or (epoch == self.epoch and same)

    def owned_by(self, claim: Claim) -> bool:
        """Whether whoever claims that may write."""
        if (claim.epoch or 0) != self.epoch:
            return False
        bound = (self.owner.instance, self.owner.boot_id)
        return not claim.instance or bound == (claim.instance, claim.boot_id)

    def on_head(self, one: Made) -> bool:
        """Whether the head is what it builds upon."""
        if one.parent is None:
            return True
        return one.parent == self.image and one.deltas <= DELTAS_MAX

    def takes(self, one: Made, on_head: bool) -> bool:
        """Whether it may become a generation now."""
        matches = one.save.match in (None, self.head)
        return matches and on_head and self.owned_by(one.save.claim)

    def generation_of(self, one: Made) -> int:
        """The generation that exists and came of this upload; 0: none."""
        found = [n for n, kept in self.kept.items() if kept.made is one]
        return found[0] if found else 0

    def enter(self, one: Made, now_s: float) -> None:
        one.acknowledged = True
        self.last = self.head = self.last + 1
        self.kept[self.last] = Kept(one, now_s)

    # what somebody might send

    def claim(self, wrong: str) -> Claim:
        """The owner's, or one that is wrong in one thing."""
        right = replace(
            self.owner,
            instance=self.owner.instance or INSTANCES[0],
            boot_id=self.owner.boot_id or BOOTS[0],
        )
        match wrong:
            case "epoch":
                epoch = self.epoch - 1 if self.epoch > 1 else self.epoch + 1
                return replace(right, epoch=epoch)
            case "instance":
                other = INSTANCES[self.owner.instance == INSTANCES[0]]
                return replace(right, instance=other)
            case "boot":
                other = BOOTS[self.owner.boot_id == BOOTS[0]]
                return replace(right, boot_id=other)
        return right

    def make(
        self,
        number: int,
        body: str,
        wrong: str = "",
        match: int = 0,
        stray: bool = False,
    ) -> Made:
        """An upload of something that never was before: the number is in it.

        `match` is how far the generation that it names is from the head; a `stray` one
        was made from a state that the agent had, but that is not its head.
        """
        upload_id = str(uuid.UUID(int=number))
        claim = self.claim(wrong)
        named = max(self.head + match, 0)
        mark = b"%6d" % number
        if body == "file":
            plain = Claim(claim.epoch or None)
            wanted = named if match else None
            return Made(file(self.name, upload_id, mark, plain, wanted), None)
        parent = self.image
        if stray:
            images = [one.made.image for one in self.kept.values() if one.made.image]
            parent = next((image for image in images if image != parent), None)
        if body == "base" or parent is None:
            image = made.edited(BLANK, [number % 4 + 1], mark)
            return Made(base(self.name, upload_id, image, claim, named), image)
        image = made.edited(parent, [number % 4 + 1, 2], mark)
        deltas = self.kept[self.head].made.deltas + 1 if self.head else 1
        save = delta(self.name, upload_id, parent, image, claim, named)
        return Made(save, image, deltas, parent)
