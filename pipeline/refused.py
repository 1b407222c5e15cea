"""Videos that ended what read them, a worker or a lane, and are not tried again."""

from __future__ import annotations


class Refused:
    """Rows of the manifest, and from which sample of the run on each is passed over.

    Samples before that one have been given out with the video, and whoever resumes the run there
    gets them again. changes: how often something was added.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, dict]] = {}
        self.changes = 0

    def add(self, index: int, number: int, line: dict) -> None:
        """Refuse a video from sample `number` on; line: what the list of bad videos says of it.

        Of two lines about a video the one of the earlier sample counts.
        """
        if index not in self._known or number < self._known[index][0]:
            self._known[index] = number, line
            self.changes += 1

    def learn(self, other: Refused) -> None:
        """Refuse all that `other` refuses."""
        for index, (number, line) in other._known.items():
            self.add(index, number, line)

    def line(self, index: int, number: int) -> dict | None:
        """What is known against the video in sample `number`, or None."""
        first, line = self._known.get(index, (number + 1, None))
        return line if number >= first else None
