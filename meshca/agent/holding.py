"""What one process provably holds, derived from what its streams report. Pure bookkeeping: no clock, no I/O.

Rules:
- A stream tells of one resource at a time, so a report replaces only what it names: a bundle the bundle, a leaf the leaf of its entry.
- The process holds a bundle when all its streams that carry one report the same. Once none is left, the last word counts.
- A stream that ended while others stay open may have been cut off: its client goes on with what it had, until a stream that was opened
  later takes its place, or for as long as a client may take to come back.
- How long a client may take is told by the monotonic clock: somebody who sets the clock makes nobody late. Leaves end by the time of day.
- A superseded leaf is replaced once no stream holds it. What a stream held when it ended stays in use until some stream reports the
  newest leaf of that entry: the process may still use it, and is perhaps about to reconnect.
"""

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from meshca.model import HolderReport, Leaf
from sds.provider import Proof

LONGEST_RECONNECT = 120.0
"""Seconds: gRPC's longest backoff; Envoy's is 30."""
_MOST_ENDED = 256
_NOTHING: tuple[str, frozenset[int]] = "", frozenset()


@dataclass(slots=True, eq=False)
class StreamHolding:
    """What one stream reported last: the digest of a bundle ("" for none yet), and a serial for each entry id."""

    bundle: str = ""
    serials: dict[str, int] = field(default_factory=dict)
    may_succeed: int = 0
    """It takes the place of one of so many streams that had ended before it was opened."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A stream that ended as the so-manieth, and when by the monotonic clock."""

    number: int
    at: float
    stream: StreamHolding


class Holding:
    """The ledger of one process. `report` tells what is new since it was last called."""

    def __init__(self, holder: str) -> None:
        self._holder = holder
        self._has_told = False
        self._streams: set[StreamHolding] = set()
        self._ended: deque[_Ended] = deque(maxlen=_MOST_ENDED)
        self._ends = 0
        self._leaves: dict[int, Leaf] = {}
        self._newest: dict[str, int] = {}
        self._left: set[int] = set()
        self._bundle = ""
        self._told: tuple[str, frozenset[int]] | None = _NOTHING

    @property
    def bundle(self) -> str:
        """The digest of the bundle that the whole process holds, "" where that is not known."""
        return self._bundle

    def streams_with(self, serial: int) -> int:
        """How many open streams hold the leaf."""
        return sum(serial in stream.serials.values() for stream in self._streams)

    @property
    def doubtful_until(self) -> float | None:
        """When the first stream that ended is given up (monotonic), and `expire` may change what is held; None if there is none."""
        return self._ended[0].at + LONGEST_RECONNECT if self._ended else None

    def open(self) -> StreamHolding:
        """Count one more stream, which holds nothing yet."""
        stream = StreamHolding(may_succeed=self._ends)
        self._streams.add(stream)
        return stream

    def close(self, stream: StreamHolding, monotonic: float) -> None:
        """Count one stream less, which ended at this time. What it held may still be in use."""
        self._streams.discard(stream)
        self._left.update(stream.serials.values())
        if stream.bundle or stream.serials:
            self._ends += 1
            self._ended.append(_Ended(self._ends, monotonic, stream))

    def issued(self, leaf: Leaf) -> None:
        """A leaf was issued, and supersedes the earlier ones of its entry."""
        self._leaves[leaf.serial] = leaf
        self._newest[leaf.entry_id] = leaf.serial
        if self._has_told:
            self._told = None  # the CA may have forgotten the process with its last leaf, so it is told all again

    def expire(self, now: datetime, monotonic: float) -> None:
        """Forget the leaves that have expired: nobody asks for them any more. Give up streams that had time enough to come back."""
        kept = (each for each in self._ended if monotonic < each.at + LONGEST_RECONNECT)
        self._ended = deque(kept, _MOST_ENDED)
        self._leaves = {serial: leaf for serial, leaf in self._leaves.items() if now < leaf.not_after}
        self._newest = {entry_id: serial for entry_id, serial in self._newest.items() if serial in self._leaves}
        self._left &= self._leaves.keys()

    def delivered(self, stream: StreamHolding, proof: Proof) -> None:
        """A stream's peer holds this now. Serials that are not known are ignored."""
        known = proof.serials & self._leaves.keys()
        self._succeed(stream, proof.bundle, {self._leaves[serial].entry_id for serial in known})
        stream.bundle = proof.bundle or stream.bundle
        self._bundle = self._held_bundle()
        for serial in known:
            entry_id = self._leaves[serial].entry_id
            stream.serials[entry_id] = serial
            if serial == self._newest.get(entry_id):
                self._left -= {left for left in self._left if self._leaves[left].entry_id == entry_id}

    def report(self) -> HolderReport | None:
        """Tell what changed since the last report, None if nothing did.

        Leaves alone are not news while no bundle is known: "unknown" would be taken for the word of the process.
        """
        self._bundle = self._held_bundle()
        replaced = frozenset(filter(self._is_replaced, self._leaves))
        held = frozenset(filter(self._is_held, self._newest.values())) if self._bundle else frozenset()
        if (self._bundle, held) == self._told and not replaced:
            return None
        self._told, self._has_told = (self._bundle, held), True
        self._leaves = {serial: leaf for serial, leaf in self._leaves.items() if serial not in replaced}
        return HolderReport(holder=self._holder, bundle=self._bundle, held=held, replaced=replaced)

    def _succeed(self, stream: StreamHolding, bundle: str, entry_ids: Collection[str]) -> None:
        """Let the stream take the place of one that had ended before it was opened, and that carried the like."""
        for ended in self._ended:
            alike = (bundle and ended.stream.bundle) or any(each in ended.stream.serials for each in entry_ids)
            if alike and ended.number <= stream.may_succeed:
                self._ended.remove(ended)
                stream.may_succeed = 0
                return

    def _in_use(self) -> Iterator[StreamHolding]:
        """The streams that are open, and those that may come back."""
        yield from self._streams
        yield from (each.stream for each in self._ended)

    def _held_bundle(self) -> str:
        carried = {stream.bundle for stream in self._in_use()} - {""}
        if not carried:
            return self._bundle
        return carried.pop() if len(carried) == 1 else ""

    def _is_held(self, newest: int) -> bool:
        """Whether all streams that carry, or carried at their end, a leaf of this entry have the newest."""
        entry_id = self._leaves[newest].entry_id
        carried = {stream.serials[entry_id] for stream in self._in_use() if entry_id in stream.serials}
        return carried | {left for left in self._left if self._leaves[left].entry_id == entry_id} == {newest}

    def _is_replaced(self, serial: int) -> bool:
        superseded = self._newest.get(self._leaves[serial].entry_id) != serial
        in_use = any(serial in stream.serials.values() for stream in self._in_use())
        return superseded and not in_use and serial not in self._left
