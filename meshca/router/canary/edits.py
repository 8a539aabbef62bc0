"""A ramp written into the text that a person wrote: weights and annotations change, and not one other character. Pure.

Rules:
- Places come from YAML's own marks. Nothing is dumped anew, so comments, order, quotes and layout stay.
- What was written is read again, and refused unless it says exactly what was meant and all else as before.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import yaml

from meshca.errors import InvalidInput
from meshca.router.canary.ramp import WHOLE, Canary, progress_text, ramp_text
from meshca.router.mesh.objects import Origin, VirtualService
from meshca.router.parsing.canary import CANARY, REASON, STATE
from meshca.router.parsing.documents import parts
from meshca.router.parsing.kinds import Parser
from spiffe.id import TrustDomain

_ANYBODY = TrustDomain("example.org")  # whose service accounts they are makes no difference to what is compared


class _Edit(NamedTuple):
    start: int
    end: int
    text: str


def found(text: str, origin: Origin) -> VirtualService | None:
    """The VirtualService of this namespace and name in a text, if it is there and good."""
    objects = Parser(_ANYBODY).parse({origin.file: text}).objects
    mine = (each for each in objects if each.origin.label == origin.label and isinstance(each, VirtualService))
    return next(mine, None)


def edited(text: str, origin: Origin, canary: Canary) -> str:
    """The text with this canary in the VirtualService. Raises InvalidInput where that can not be done without touching more."""
    before = found(text, origin)
    if before is None:
        raise InvalidInput(f"{origin.file}: {origin.label} is not there, or is broken")
    start, part = _part(text, before.origin.line)
    root = _document(part, before.origin)
    new = _applied(part, _edits(root, part, canary))
    made = text[:start] + new + text[start + len(part) :]
    _check(_meant(part, canary), new, found(made, origin), canary, origin)
    return made


def _part(text: str, line: int) -> tuple[int, str]:
    """The part of the file with this line, and at which character it starts."""
    found = [part for part in parts("text", text) if part.line <= line]
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    start = starts[found[-1].line - 1]
    return start + (1 if start == 0 and text.startswith("\ufeff") else 0), found[-1].text


def _document(part: str, origin: Origin) -> yaml.MappingNode:
    """The node of the object. By Python's own scanner: its marks count characters."""
    try:
        documents = [each for each in yaml.compose_all(part, yaml.SafeLoader) if isinstance(each, yaml.MappingNode)]
    except yaml.YAMLError:
        documents = []
    if len(documents) != 1:
        raise InvalidInput(f"{origin.label} shares its part of the file with another: write --- between them")
    return documents[0]


def _edits(root: yaml.MappingNode, part: str, canary: Canary) -> Iterator[_Edit]:
    route = _at(root, "spec", "http", canary.place.rule, "route")
    for index in range(2):
        weight = _at(route, index, "weight")
        if not isinstance(weight, yaml.ScalarNode):
            raise InvalidInput(f"spec.http[{canary.place.rule}].route[{index}] has no weight: write it, if only 0")
        value = canary.weight if index == canary.place.to else WHOLE - canary.weight
        yield _Edit(weight.start_mark.index, weight.end_mark.index, str(value))
    yield from _annotations(_at(root, "metadata"), part, _said(canary))


def _annotations(metadata: Any, part: str, said: dict[str, str]) -> Iterator[_Edit]:
    annotations = _at(metadata, "annotations")
    there = {key.value: value for key, value in annotations.value} if _is_mapping(annotations) else {}
    for name in said.keys() & there.keys():
        old = there[name]
        tail = "\n" if part[old.start_mark.index : old.end_mark.index].endswith("\n") else ""
        yield _Edit(old.start_mark.index, old.end_mark.index, json.dumps(said[name], ensure_ascii=False) + tail)
    new = {name: text for name, text in said.items() if name not in there}
    if not new:
        return
    if _is_mapping(annotations):
        yield _inserted(annotations, part, new)
    elif annotations is None:
        yield _inserted(metadata, part, {"annotations": new})
    else:  # it is there, and empty
        yield _Edit(annotations.start_mark.index, annotations.end_mark.index, f" {json.dumps(new)}")


def _inserted(mapping: yaml.MappingNode, part: str, new: dict[str, Any]) -> _Edit:
    """Further fields, in front of the first one."""
    if mapping.flow_style:
        place = mapping.start_mark.index + 1
        return _Edit(place, place, json.dumps(new, ensure_ascii=False)[1:-1] + (", " if mapping.value else ""))
    first = mapping.value[0][0].start_mark
    newline = "\r\n" if "\r\n" in part else "\n"
    indent = " " * first.column
    return _Edit(first.index, first.index, "".join(f"{line}{newline}{indent}" for line in _block(new)))


def _block(fields: dict[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield f"{name}:"
            yield from (f"  {line}" for line in _block(value))
        else:
            yield f"{name}: {json.dumps(value, ensure_ascii=False)}"


def _at(node: Any, *path: str | int) -> Any:
    """The node at the end of a path; None if there is none."""
    for step in path:
        if isinstance(step, int):
            node = node.value[step]
        else:
            node = next((value for key, value in node.value if key.value == step), None) if node else None
    return node


def _is_mapping(node: Any) -> bool:
    return isinstance(node, yaml.MappingNode)


def _applied(part: str, edits: Iterator[_Edit]) -> str:
    for edit in sorted(edits, reverse=True):
        part = part[: edit.start] + edit.text + part[edit.end :]
    return part


def _meant(part: str, canary: Canary) -> Any:
    """What the part is to say, as plain values."""
    (document,) = filter(None, yaml.load_all(part, yaml.BaseLoader))
    route = document["spec"]["http"][canary.place.rule]["route"]
    for index in range(2):
        route[index]["weight"] = str(canary.weight if index == canary.place.to else WHOLE - canary.weight)
    annotations = document["metadata"].get("annotations")
    document["metadata"]["annotations"] = (annotations if isinstance(annotations, dict) else {}) | _said(canary)
    return document


def _check(meant: Any, part: str, now: VirtualService | None, canary: Canary, origin: Origin) -> None:
    """Raise InvalidInput unless the canary is what was meant, and everything else is what it was."""
    try:
        (is_there,) = filter(None, yaml.load_all(part, yaml.BaseLoader))
    except (yaml.YAMLError, ValueError):
        is_there = None
    if now is None or now.canary != _rounded(canary) or is_there != meant:
        raise InvalidInput(
            f"{origin.file}: {origin.label} is written in a way that a program can not change: step by hand"
        )


def _said(canary: Canary) -> dict[str, str]:
    said = {CANARY: ramp_text(canary.ramp)}
    if canary.progress:
        said |= {STATE: progress_text(canary.progress), REASON: canary.progress.reason}
    return said


def _rounded(canary: Canary) -> Canary:
    """As the text has it: to the millisecond."""
    progress = canary.progress
    if progress is None:
        return canary
    since = progress.since.replace(microsecond=progress.since.microsecond // 1000 * 1000)
    return replace(canary, progress=replace(progress, since=since))
