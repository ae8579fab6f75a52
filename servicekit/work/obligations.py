"""Which open facts each key of work stands for: a fact is done once every key that it gave was reconciled after it."""

from collections.abc import Iterable

from servicekit.work.keys import Key


class Obligations:
    """Keys and open facts, by the ids of their markers, of one process; as many as are open."""

    def __init__(self) -> None:
        self._keys: dict[str, set[Key]] = {}
        self._facts: dict[Key, set[str]] = {}

    def add(self, marker_id: str, keys: Iterable[Key]) -> None:
        """The fact gives these keys, which are reconciled from now on."""
        for key in keys:
            self._keys.setdefault(marker_id, set()).add(key)
            self._facts.setdefault(key, set()).add(marker_id)

    def has(self, marker_id: str) -> bool:
        """Whether some key of the fact is not settled yet."""
        return marker_id in self._keys

    def of(self, key: Key) -> frozenset[str]:
        """The facts that gave the key so far."""
        return frozenset(self._facts.get(key, ()))

    def settle(self, key: Key, marker_ids: Iterable[str]) -> list[str]:
        """Nothing is left to do for these facts under this key. Returns those that wait for no other key."""
        done = []
        for marker_id in marker_ids:
            self._facts[key].discard(marker_id)
            self._keys[marker_id].discard(key)
            if not self._keys[marker_id]:
                del self._keys[marker_id]
                done.append(marker_id)
        if not self._facts.get(key, True):
            del self._facts[key]
        return done
