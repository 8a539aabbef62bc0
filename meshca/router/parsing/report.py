"""What is wrong with one object, collected while it is read."""

from collections.abc import Callable
from dataclasses import dataclass, field

from meshca.router.mesh.objects import Problem

MAX_PROBLEMS = 100
"""Of one object: a flood of nonsense is not worth more."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What is wrong with one object, and what is only odd."""

    file: str
    label: str = ""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    at_end: list[Callable[[], None]] = field(default_factory=list)
    """Checks that can be made only when all has been read."""

    @property
    def full(self) -> bool:
        """Whether no more problems are taken."""
        return len(self.problems) >= MAX_PROBLEMS

    def problem(self, line: int, path: str, text: str) -> None:
        """Something for which the object can not be used."""
        if not self.full:
            self.problems.append(Problem(file=self.file, line=line, label=self.label, field=path, text=text))

    def warn(self, line: int, path: str, text: str) -> None:
        """Something that is hardly meant so."""
        if len(self.warnings) < MAX_PROBLEMS:
            self.warnings.append(Problem(file=self.file, line=line, label=self.label, field=path, text=text))

    def finish(self) -> None:
        """Make the last checks, then put everything in the order in which it stands in the file."""
        for check in self.at_end:
            check()
        self.problems.sort(key=lambda problem: problem.line)
        self.warnings.sort(key=lambda problem: problem.line)
