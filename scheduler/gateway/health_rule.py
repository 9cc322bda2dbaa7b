"""HealthRule: how many probes make a node up or down."""

from scheduler.core.node import Health

#: A down node that has answered once is asked again after this many seconds, and not later than it would be anyway.
CONFIRM_S = 1.0
#: Nodes that are not up, or have just failed a probe, are probed at least this often, in seconds. With CONFIRM_S and
#: 10 % of jitter this is less than the 5 s within which a node that is ready has to get its first request (rise 2).
SOON_S = 3.0


class HealthRule:
    """Counts the probes of one node.

    The first probe decides. After that, `fall` failures in a row take it down and `rise` successes in a row bring it
    up; a node taken down by `force_down` comes back with its first success.
    """

    __slots__ = ("_fall", "_needed", "_rise", "_run", "health")

    def __init__(self, rise: int, fall: int) -> None:
        self._rise = rise
        self._fall = fall
        self._run = 0  # probes in a row that speak against `health`
        self._needed = 1  # how many of them change it
        self.health = Health.UNKNOWN

    def __repr__(self) -> str:
        return f"<HealthRule {self.health} {self._run}/{self._needed}>"

    def note(self, is_up: bool) -> Health:
        """Count a probe; the health from now on."""
        said = Health.UP if is_up else Health.DOWN
        if said is self.health:
            self._run = 0
            return said
        self._run += 1
        if self._run >= self._needed:
            self._become(said)
        return self.health

    def force_down(self) -> None:
        """Take it down at once; the next success brings it back."""
        self._become(Health.DOWN)
        self._needed = 1

    def next_probe_s(self, interval_s: float) -> float:
        """Seconds from the beginning of the last probe to that of the next, without jitter."""
        if self.health is Health.UP:
            return min(interval_s, SOON_S) if self._run else interval_s
        return min(interval_s, CONFIRM_S if self._run else SOON_S)

    def _become(self, health: Health) -> None:
        self.health = health
        self._run = 0
        self._needed = self._fall if health is Health.UP else self._rise
