"""What a changed file means for a server that runs: what SIGHUP applies, and what needs a restart. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import SecretStr

from meshca.config.sections import Section, is_reloaded
from meshca.config.settings import Config
from meshca.config.values import written

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A setting that differs. `before` and `after` are as in TOML; a secret is not shown."""

    key: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.after}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """What to do about a new configuration.

    `config` is the old one with the changes `applied`; the changes `restart` are not in it.
    """

    config: Config
    applied: tuple[Change, ...]
    restart: tuple[Change, ...]


def reloadable(old: Config, new: Config) -> Reload:
    """Tell apart what SIGHUP applies and what needs a restart."""
    changes = tuple(_changes(old, new, ""))
    return Reload(
        config=_merged(old, new),
        applied=tuple(change for change, at_once in changes if at_once),
        restart=tuple(change for change, at_once in changes if not at_once),
    )


def _changes(old: Section, new: Section, prefix: str) -> Iterator[tuple[Change, bool]]:
    for name, field in type(old).model_fields.items():
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, Section):
            yield from _changes(before, after, f"{prefix}{name}.")
        elif before != after:
            yield Change(key=prefix + name, before=_shown(before), after=_shown(after)), is_reloaded(field)


def _merged(old: S, new: S) -> S:
    """The old section with the new values of what is reloaded. Settings that relate to each other are reloaded together or not at all."""
    update: dict[str, Any] = {}
    for name, field in type(old).model_fields.items():
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, Section):
            update[name] = _merged(before, after)
        elif is_reloaded(field):
            update[name] = after
    return old.model_copy(update=update)


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, dict):
        return " ".join(f"{name}={each}" for name, each in value.items())
    return "(not shown)" if isinstance(value, SecretStr) else written(value)
