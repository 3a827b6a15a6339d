"""Claims of a process that takes part in a service, whoever owns the store."""

from __future__ import annotations

from taquba._interface.claim import HeldClaim
from taquba._line.client import SocketClient
from taquba._memory.callbacks import call_soon
from taquba._memory.leases import Lease
from taquba._queue.claims import OwnedClaim, still_held
from taquba._queue.owner import Owner


class MemberClaim(HeldClaim):
    """A claim that outlives its owner.

    It is held at an owner in this process, or through a connection to one elsewhere. Between two
    owners it is at neither of them, and nobody else gets its job.

    Attributes:
        handle: What called the owner.
        owner: The owner in this process.
        connection: To the owner elsewhere.
        token: Its name there.
        asking: How many calls about it are under way there.
        said_over: Whether the owner elsewhere has said meanwhile that it is over.
    """

    __slots__ = ("asking", "connection", "handle", "owner", "said_over", "token")

    def __init__(self, lease: Lease, handle: object) -> None:
        super().__init__(lease)
        self.handle = handle
        self.owner: Owner | None = None
        self.connection: SocketClient | None = None
        self.token = 0
        self.asking = 0
        self.said_over = False

    @property
    def lease(self) -> Lease:
        """The hold: the owner's own, or what this process knows of it."""
        return self._lease

    @property
    def held(self) -> Lease:
        """The lease, while the job is held; raises `ClaimLost`."""
        return still_held(self._lease)

    @property
    def adrift(self) -> bool:
        """Whether its owner has ended, and no other one knows of it yet."""
        return self.owner is None and self.connection is None

    def at(self, owner: Owner) -> OwnedClaim:
        """The claim as an owner in this process settles it."""
        claim = OwnedClaim(owner, self._lease)
        claim._job = self._job  # pyright: ignore[reportPrivateUsage] - with the payload that was read
        return claim

    def take_payload(self, loaded: HeldClaim) -> None:
        """The payload was read into the same claim elsewhere."""
        self._job = loaded._job  # pyright: ignore[reportPrivateUsage] - with the payload

    def end(self) -> None:
        """It is over, as the owner elsewhere has told."""
        self.connection = None
        lease = self._lease
        lease.enter("over")
        callbacks, lease.on_over = lease.on_over, []
        if callbacks:
            call_soon(callbacks, lease.job)


class HeldClaims:
    """The claims of this process that an owner elsewhere holds for it, and those adrift."""

    def __init__(self) -> None:
        self._bound: dict[SocketClient, dict[int, MemberClaim]] = {}
        self._adrift: dict[MemberClaim, None] = {}
        self._adopted_here: dict[MemberClaim, None] = {}
        """Claims that the owner in this process has from a former one."""

    def bind(self, claim: MemberClaim, connection: SocketClient, token: int) -> None:
        """An owner elsewhere holds a claim."""
        self._adrift.pop(claim, None)
        claim.owner, claim.connection, claim.token = None, connection, token
        self._bound.setdefault(connection, {})[token] = claim

    def bind_here(self, claim: MemberClaim, owner: Owner) -> None:
        """The owner in this process holds a claim."""
        self._forget(claim)
        claim.owner, claim.connection = owner, None
        self._adopted_here[claim] = None

    def here(self, owner: Owner) -> list[MemberClaim]:
        """Claims that the owner in this process has from a former one."""
        return [claim for claim in self._adopted_here if claim.owner is owner]

    def get(self, connection: SocketClient, token: int) -> MemberClaim | None:
        return self._bound.get(connection, {}).get(token)

    def at(self, connection: SocketClient) -> list[MemberClaim]:
        """The claims that are held through a connection."""
        return list(self._bound.get(connection, {}).values())

    def hear_over(self, claim: MemberClaim) -> None:
        """The owner elsewhere says that a claim is over.

        That may be the work of a call whose answer is still to come. Should the owner end before it
        answers, what it did may not be stored: the next owner is asked.
        """
        if claim.asking:
            claim.said_over = True
        else:
            self.end(claim)

    def answered(self, claim: MemberClaim) -> None:
        """A call about a claim was answered: what was said before is stored."""
        if claim.said_over and not claim.asking and claim.lease.state != "over":
            self.end(claim)

    def end(self, claim: MemberClaim) -> None:
        """A claim is over."""
        self._forget(claim)
        claim.end()

    def cast_adrift(self, claim: MemberClaim) -> None:
        """The owner of a claim has ended."""
        self._forget(claim)
        claim.owner = claim.connection = None
        claim.said_over = False
        if claim.lease.state in ("held", "settling"):
            claim.lease.enter("held")
            self._adrift[claim] = None

    def lose(self, connection: SocketClient) -> None:
        """A connection has ended, or its owner is about to."""
        for claim in self.at(connection):
            self.cast_adrift(claim)
        self._bound.pop(connection, None)

    def lose_all_but(self, connection: SocketClient | None) -> list[MemberClaim]:
        """Cast adrift what is held anywhere else; returns all that is adrift."""
        for other in list(self._bound):
            if other is not connection:
                self.lose(other)
        return list(self._adrift)

    def _forget(self, claim: MemberClaim) -> None:
        self._adrift.pop(claim, None)
        self._adopted_here.pop(claim, None)
        if claim.connection is not None and (held := self._bound.get(claim.connection)):
            held.pop(claim.token, None)
