"""What every push of a model must keep, whoever pushes it; and what a push demands in the end.

A push has demands of its own (``--max-drop``, ``--require``, ``--metric``); the model's policy adds
to them, and the stricter wins. Who may push may override a gate by name (``--allow``), but one of
the policy only who may change the policy: the role admin. So a policy binds those who push, and is
read in the transaction that makes the job: of a push there is no time between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy.orm import Session

from edgectl_protocol.errors import InvalidRequirement
from edgectl_protocol.requirements import (
    Requirement,
    check_allowed,
    format_requirement,
    parse_requirement,
    parse_requirements,
    strictest,
)
from edgectl_server.audit import describe
from edgectl_server.auth import ROLES
from edgectl_server.errors import Forbidden, Refused
from edgectl_server.policy_documents import replace_document
from edgectl_server.schemas import ModelPolicy, PolicyInfo, PushRequest, Role
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import ModelPolicyRow

__all__ = ["CHANGED_BY_ROLE", "MAX_DROP_POINTS", "Policies", "Terms", "check_terms", "terms_of"]

CHANGED_BY_ROLE: Role = "admin"
MAX_DROP_POINTS = 1.0
"""Where neither the push nor the policy says it."""


class Terms(Struct, frozen=True, kw_only=True):
    """What is demanded of a push: in the job's payload, so that a policy changes no push begun."""

    max_drop_points: float = MAX_DROP_POINTS
    metric: str = ""
    require: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    allowed_by: str = ""
    policy_revision: int = 0

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """The requirements, parsed."""
        return strictest(parse_requirement(one) for one in self.require)

    def covers(self, other: Terms) -> bool:
        """Say whether what was made under these terms is what the other ones demand, too."""
        return (
            self.max_drop_points <= other.max_drop_points
            and other.metric in {"", self.metric}
            and strictest([*self.requirements, *other.requirements]) == self.requirements
            and set(self.allow) <= set(other.allow)
        )


def check_terms(require: Sequence[str], allow: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the requirements in their one spelling, sorted.

    Raises:
        Refused: ``version.require``, ``version.allow``.
    """
    try:
        for name in allow:
            check_allowed(name)
    except InvalidRequirement as error:
        raise Refused("version.allow", str(error), hint="leave it out, or name a gate") from error
    try:
        return tuple(format_requirement(one) for one in parse_requirements(require))
    except InvalidRequirement as error:
        raise Refused(
            "version.require",
            str(error),
            hint="docs/gates.md says what can be required, such as accuracy>=0.9",
        ) from error


def terms_of(session: Session, model: str, request: PushRequest, *, user: str, role: Role) -> Terms:
    """Return what a push demands in the end, its options and the model's policy together.

    Raises:
        Forbidden: ``policy.override``: a gate of the policy is overridden by who may not change it.
        Refused: ``policy.metric``: the policy measures otherwise; ``version.require``.
    """
    options = request.options
    row = session.get(ModelPolicyRow, model)
    policy = _policy(row)
    guarded = {one.name for one in parse_requirements(policy.require)}
    if policy.max_drop_points is not None:
        guarded.add("drop")
    overridden = sorted(guarded & set(options.allow))
    if overridden and ROLES.index(role) < ROLES.index(CHANGED_BY_ROLE):
        raise Forbidden(
            "policy.override",
            f"the policy of {model} has the gate {overridden[0]}, and only the role "
            f"{CHANGED_BY_ROLE} overrides it; {user} has {role}",
            hint=f"push without --allow {overridden[0]}, or ask an admin to push it",
            data={"gates": overridden},
        )
    asked = "own" if request.own_metric is not None else options.metric
    if policy.metric is not None and asked not in {None, policy.metric}:
        raise Refused(
            "policy.metric",
            f"the policy of {model} measures by {policy.metric}, and this push by {asked}",
            hint="leave --metric out",
        )
    limits = [one for one in (options.max_drop_points, policy.max_drop_points) if one is not None]
    together = strictest(parse_requirements(policy.require) + parse_requirements(options.require))
    describe(policy_revision=0 if row is None else row.revision)
    return Terms(
        max_drop_points=min(limits, default=MAX_DROP_POINTS),
        metric=policy.metric or options.metric or "",
        require=tuple(format_requirement(one) for one in together),
        allow=tuple(sorted(set(options.allow))),
        allowed_by=user,
        policy_revision=0 if row is None else row.revision,
    )


class Policies:
    """Policies by model."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        """Take what it needs."""
        self._database = database
        self._now = now

    def get(self, model: str) -> PolicyInfo:
        """Return the policy of a model, also of one that was never pushed."""
        with self._database.read() as session:
            return _info(model, session.get(ModelPolicyRow, model))

    def put(self, model: str, policy: ModelPolicy, user: str) -> PolicyInfo:
        """Replace the policy of a model.

        Raises:
            Refused: ``version.require``.
            Conflict: ``policy.changed``: it is not the one any more that the new one is made from.
        """
        document: dict[str, Any] = {
            "max_drop_points": policy.max_drop_points,
            "metric": policy.metric,
            "require": list(check_terms(policy.require)),
        }
        with self._database.write() as session:
            row = replace_document(
                session,
                ModelPolicyRow,
                model,
                document,
                revision=policy.revision,
                by=(user, self._now()),
                named=(f"the policy of {model}", f"edgectl models policy {model}"),
                shown=_shown,
            )
            return _info(model, row)


def _policy(row: ModelPolicyRow | None) -> ModelPolicy:
    return ModelPolicy() if row is None else ModelPolicy.model_validate(row.document)


def _shown(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if value not in (None, [])}


def _info(model: str, row: ModelPolicyRow | None) -> PolicyInfo:
    policy = _policy(row)
    return PolicyInfo(
        model=model,
        max_drop_points=policy.max_drop_points,
        metric=policy.metric,
        require=policy.require,
        revision=0 if row is None else row.revision,
        changed_at=None if row is None else row.changed_at,
        changed_by="" if row is None else row.changed_by,
    )
