"""The share that the process of a run has of each host beside its workers: pages are read over it."""

from __future__ import annotations

from ..connections.pool import ConnectionPool
from ..engine.context import Context
from .budget import OWN, Budget
from .limits import RunLimits
from .messages import Assign


class OwnShare:
    """A connection pool whose connections the budget of the workers grants, while any are asked for.

    Args:
        context: The engine's context in the process of the run.
        budget: Divides the connections of each host among the workers.

    Attributes:
        pool: The connection pool.
    """

    def __init__(self, context: Context, budget: Budget) -> None:
        settings = context.settings
        yields = settings.limits.connections == "auto"
        self.pool = ConnectionPool(settings.limits, share=0, yields=yields, hosts=settings.hosts)
        self._budget, self._takes_part = budget, False

    def steer(self, limits: RunLimits) -> None:
        """Change the limits of this process."""
        self.pool.resize(limits.connections, is_fixed=limits.is_fixed, most_open=limits.most_open)
        self.pool.rate.change(limits.rate)

    def look(self, now: float) -> list[tuple[int, Assign]]:
        """Adjust the budget, take the connections of this process, and return the assignments of workers.

        Args:
            now: Seconds of a monotonic clock.
        """
        if reports := self.pool.report():
            if not self._takes_part:
                self._takes_part = True
                self._budget.joined(OWN)
            self._budget.reported(OWN, reports, now)
        of_workers = []
        for number, assign in self._budget.look(now):
            if number == OWN:
                self.pool.assign(assign.host, assign.connections, shed=assign.shed, number=assign.number)
            else:
                of_workers.append((number, assign))
        return of_workers
