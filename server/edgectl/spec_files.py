"""Files of ``edgectl apply``: YAML documents, strict, with the line of whatever is wrong.

A document has a ``kind`` and the fields of the API's own type of that kind; a key that it does not
have is an error, not a default. What makes YAML dangerous or surprising is not there: no tags, no
anchors and aliases, no key twice; size, depth and number of documents are bounded. PyYAML reads the
text (its safe loader's scalars of YAML 1.1, so that ``version: 1.10`` is a number, and refused).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml
from msgspec import Struct, inspect

from edgectl.errors import LocalError
from edgectl.types import RolloutPolicy, RolloutRequest, Selector

__all__ = ["RolloutSpec", "SelectorSpec", "read_specs", "rollout_yaml"]

TEXT_CHARACTERS_MAX = 256 * 1024
DOCUMENTS_MAX = 100
DEPTH_MAX = 16
_PATH = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+)\]")
_AT = re.compile(r" - at `\$([^`]*)`$")


class RolloutSpec(Struct, frozen=True, tag_field="kind", tag="Rollout"):
    """A rollout, as ``POST /rollouts`` takes it."""

    model: str
    version: str
    selector: Selector
    policy: RolloutPolicy = RolloutPolicy()

    def request(self) -> RolloutRequest:
        """Return what the server is asked."""
        return RolloutRequest(self.model, self.version, self.selector, self.policy)


class SelectorSpec(Struct, frozen=True, tag_field="kind", tag="Selector"):
    """A selector under a name."""

    name: str
    text: str


Spec = RolloutSpec | SelectorSpec
_KINDS: dict[str, type[Spec]] = {"Rollout": RolloutSpec, "Selector": SelectorSpec}


def read_specs(text: str, name: str) -> list[Spec]:
    """Return what a file says; it is right as a whole or not at all.

    Args:
        text: of the file.
        name: of the file, for errors.

    Raises:
        LocalError: ``apply.file``, with the line.
    """
    if len(text) > TEXT_CHARACTERS_MAX:
        raise LocalError("apply.file", f"{name}: more than {TEXT_CHARACTERS_MAX} characters")
    try:
        _check_events(text, name)
        nodes = yaml.compose_all(text, Loader=yaml.SafeLoader)
        specs = [_spec(node, name) for node in nodes]
    except yaml.MarkedYAMLError as error:
        line = _line(error.problem_mark)
        raise _wrong(name, line, f"this is no YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise LocalError("apply.file", f"{name}: this is no YAML: {error}") from error
    if not specs:
        raise LocalError("apply.file", f"{name} says nothing", "begin it with `kind: Rollout`")
    return specs


def rollout_yaml(request: RolloutRequest) -> str:
    """Return a file that says a rollout, without what is as it is by default."""
    document: dict[str, Any] = {"kind": "Rollout", "model": request.model}
    document |= {"version": request.version, "selector": _said(request.selector)}
    policy = _said(request.policy)
    if policy:
        document["policy"] = policy
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _said(value: Struct) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(value):
        one = getattr(value, field.name)
        default = field.default
        if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if one == default:
            continue
        if isinstance(one, Struct):
            found[field.name] = _said(one)
        elif isinstance(one, list):
            found[field.name] = [_said(item) if isinstance(item, Struct) else item for item in one]
        else:
            found[field.name] = one
    return found


def _check_events(text: str, name: str) -> None:
    """Refuse what is dangerous before anything is built of it."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = _line(event.start_mark)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > DOCUMENTS_MAX:
            raise _wrong(name, line, f"more than {DOCUMENTS_MAX} documents")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _wrong(name, line, "anchors and aliases (& and *) are not taken: write it out")
        if isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None):
            raise _wrong(name, line, "tags (!) are not taken")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH_MAX:
            raise _wrong(name, line, f"more than {DEPTH_MAX} levels")


def _line(mark: Any) -> int:
    """Return the line of one of PyYAML's marks, which its types have two of; 1 without one."""
    return 1 if mark is None else mark.line + 1


def _spec(node: yaml.Node, name: str) -> Spec:
    keys = dict(_keys(node, name))
    kind_node = keys.get("kind")
    kind = getattr(kind_node, "value", None)
    if kind not in _KINDS:
        line = (kind_node or node).start_mark.line + 1
        raise _wrong(name, line, f"a document begins with `kind: {'` or `kind: '.join(_KINDS)}`")
    _check_known(node, inspect.type_info(_KINDS[kind]), name)
    value = _value(node, name)
    try:
        return msgspec.convert(value, _KINDS[kind])
    except msgspec.ValidationError as error:
        said = str(error)
        found = _AT.search(said)
        at = node if found is None else _node_at(node, found[1])
        raise _wrong(name, at.start_mark.line + 1, _AT.sub("", said)) from error


def _keys(node: yaml.Node, name: str) -> Iterator[tuple[str, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise _wrong(name, node.start_mark.line + 1, "expected `key: value` lines")
    seen: set[str] = set()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise _wrong(name, line, "a key is a word")
        if key.value in seen:
            raise _wrong(name, line, f"{key.value} is there twice")
        seen.add(key.value)
        yield key.value, value


def _check_known(node: yaml.Node, kind: inspect.Type, name: str) -> None:
    """Refuse keys that a type does not have, at any depth."""
    if isinstance(kind, inspect.UnionType):
        for one in kind.types:
            if isinstance(one, inspect.StructType | inspect.ListType):
                _check_known(node, one, name)
    elif isinstance(kind, inspect.ListType) and isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_known(item, kind.item_type, name)
    elif isinstance(kind, inspect.StructType) and isinstance(node, yaml.MappingNode):
        fields = {field.encode_name: field.type for field in kind.fields}
        if kind.tag_field is not None:
            fields[kind.tag_field] = inspect.StrType()
        for key, value in _keys(node, name):
            if key not in fields:
                close = difflib.get_close_matches(key, fields, 1)
                meant = f"do you mean {close[0]}?" if close else f"known: {', '.join(fields)}"
                line = value.start_mark.line + 1
                raise _wrong(name, _line_of(node, key, line), f"unknown key {key[:64]}; {meant}")
            _check_known(value, fields[key], name)


def _line_of(node: yaml.MappingNode, key: str, default: int) -> int:
    lines = (one.start_mark.line + 1 for one, _ in node.value if one.value == key)
    return next(lines, default)


def _value(node: yaml.Node, name: str) -> Any:
    match node:
        case yaml.MappingNode():
            return {key: _value(value, name) for key, value in _keys(node, name)}
        case yaml.SequenceNode():
            return [_value(item, name) for item in node.value]
        case _:
            try:
                return yaml.SafeLoader("").construct_object(node)
            except ValueError as error:
                raise _wrong(name, node.start_mark.line + 1, str(error)) from error


def _node_at(node: yaml.Node, path: str) -> yaml.Node:
    """Return the node that msgspec's path leads to, or the last one on the way."""
    for key, index in _PATH.findall(path):
        if key and isinstance(node, yaml.MappingNode):
            node = next((value for one, value in node.value if one.value == key), node)
        elif index and isinstance(node, yaml.SequenceNode) and int(index) < len(node.value):
            node = node.value[int(index)]
    return node


def _wrong(name: str, line: int, what: str) -> LocalError:
    hint = "edgectl rollout export shows how a rollout is written"
    if "Expected `str`" in what:
        hint = "write it in quotes: YAML takes 1.10 for a number and no for false"
    return LocalError("apply.file", f"{name}, line {line}: {what}", hint)
