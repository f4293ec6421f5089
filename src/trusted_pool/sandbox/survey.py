"""Finding out, at a worker's start, what its machine can hold a job with."""

from trusted_pool.ports.sandbox import SandboxError
from trusted_pool.sandbox import cgroup_search, seccomp, standing
from trusted_pool.sandbox.cgroups import Cgroups
from trusted_pool.sandbox.probe import FILTER_TITLE, Prober
from trusted_pool.sandbox.standing import Finding, Kind


class Survey:
    """What was found, in the order in which it was looked at."""

    def __init__(self, *, allow_weaker: bool) -> None:
        """`allow_weaker`: a machine below level 2 will do, as long as a sandbox can be built."""
        self.findings: list[Finding] = []
        self._allow_weaker = allow_weaker

    def refuse(self) -> None:
        """Raise SandboxError when what was found so far is too little for a worker."""
        words = standing.refusal(self.findings, allow_weaker=self._allow_weaker)
        if words is not None:
            raise SandboxError(words)

    def filter(self) -> seccomp.Filter | None:
        """Compile the filter of system calls; None: there can be none."""
        try:
            return seccomp.compiled()
        except SandboxError as error:
            why, _, mend = str(error).partition("; ")
            self.findings.append(
                Finding(name="filter", title=FILTER_TITLE, kind=Kind.FILTER, holds=False, why=why, mend=mend)
            )
            return None

    def cgroups(self, name: str) -> Cgroups | None:
        """Find control groups and make the worker's, under its name; None: there are none for it."""
        found = cgroup_search.find(name)
        self.findings.append(found.finding)
        return found.cgroups

    @property
    def level(self) -> int:
        """The isolation level that holds."""
        return standing.level_of(self.findings)

    @property
    def tree(self) -> bool:
        """Whether the whole tree of a job's processes is limited."""
        return not any(finding.kind is Kind.LIMIT and finding.holds is False for finding in self.findings)

    async def measure(self, prober: Prober, *, limits: bool) -> None:
        """Run real sandboxes. `limits`: of the tree are to be measured too.

        Raises:
            SandboxError: it is too little for a worker.
        """
        self.findings += await prober.walls()
        self.refuse()  # here first, so that the gravest of all is named
        if limits:
            self.findings += await prober.limits()
            self.refuse()
