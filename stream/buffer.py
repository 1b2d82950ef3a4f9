"""A preallocated buffer of timestamped rows: memory is bounded whatever arrives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
Stamps = npt.NDArray[np.int64]

END, BEGIN, KEY, GRABBED, SENT, RECEIVED = range(6)


class Selection(NamedTuple):
    """Rows of one window, oldest first: x (n, D) and stamps (n, 6) in the columns above (ns). Views: copy to keep."""

    x: Rows
    stamps: Stamps


class RowBuffer:
    """The newest `capacity` rows of a stream, in order of their end.

    Arrays of twice the capacity are filled from the left and moved back when full, so that any window is one contiguous slice.
    `key` tells rows apart that may not share a window (another segment, another person).
    """

    def __init__(self, capacity: int, dim: int) -> None:
        self._capacity = capacity
        self._x = np.zeros((2 * capacity, dim), np.float32)
        self._stamps = np.zeros((2 * capacity, 6), np.int64)
        self._first = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count - self._first

    def append(self, x: Rows, end: int, begin: int, key: int, grabbed: int, sent: int, received: int) -> None:
        """Adds one row (D,). A row that ends before the newest one is put in its place."""
        if self._count == len(self._x):
            keep = slice(self._count - self._capacity, self._count)
            self._x[: self._capacity], self._stamps[: self._capacity] = self._x[keep].copy(), self._stamps[keep].copy()
            self._first, self._count = 0, self._capacity
        at = self._count
        if at > self._first and end < self._stamps[at - 1, END]:
            at = self._first + int(np.searchsorted(self._stamps[self._first : self._count, END], end, side="right"))
            self._x[at + 1 : self._count + 1] = self._x[at : self._count].copy()
            self._stamps[at + 1 : self._count + 1] = self._stamps[at : self._count].copy()
        self._x[at] = x
        self._stamps[at] = (end, begin, key, grabbed, sent, received)
        self._count += 1
        self._first = max(self._first, self._count - self._capacity)

    def select(self, after: int, upto: int) -> Selection:
        """Rows with after < end <= upto that share the key of the newest of them."""
        ends = self._stamps[self._first : self._count, END]
        low, high = (self._first + int(np.searchsorted(ends, edge, side="right")) for edge in (after, upto))
        keys = self._stamps[low:high, KEY]
        if high > low and keys[0] != keys[-1]:
            low += int(np.flatnonzero(keys != keys[-1])[-1]) + 1
        return Selection(self._x[low:high], self._stamps[low:high])
