"""Signed metadata as values: who may sign which, how long it lives, the next version of each.

No files, no keys, no clock: what is here is the same for the server and for the person who signs
on a machine without a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Generic, TypeVar

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signature, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    SuccinctRoles,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from edgectl_protocol.metadata import (
    BIN_BIT_LENGTH,
    BIN_NAME_PREFIX,
    METADATA_BYTES_MAX,
    MODELS_PATTERN,
    MODELS_ROLE,
    ORDER_KEYS_FIELD,
)
from edgectl_server.errors import Refused, TooLarge

__all__ = [
    "LIFETIMES",
    "Document",
    "Mandate",
    "SignedT",
    "copy_of",
    "end_of",
    "families_of",
    "first_targets",
    "kind_of",
    "mandate_in_models",
    "mandate_in_root",
    "mandate_in_targets",
    "mandate_of",
    "meta_file",
    "models_delegations",
    "order_keys_of",
    "read_delegator",
    "read_document",
]

LIFETIMES = {
    "root": timedelta(days=365),
    "targets": timedelta(days=365),
    "family": timedelta(days=365),
    "models": timedelta(days=30),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(days=1),
}
"""From the signature to the expiry, by kind of role; half of it is what a stopped server is
granted. Bins are of the kind ``models``.
"""
_SERIALIZER = JSONSerializer(compact=True)
_SIGNATURES_MAX = 64

SignedT = TypeVar("SignedT", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True)
class Mandate:
    """Who signs for a role: so many of these keys."""

    keyids: tuple[str, ...]
    threshold: int
    keys: Mapping[str, Key]

    def key(self, keyid: str) -> Key | None:
        """Return one of the role's keys."""
        return self.keys.get(keyid) if keyid in self.keyids else None


@dataclass(frozen=True)
class Document(Generic[SignedT]):
    """A version of a role: with the signatures that there are, and as the bytes that are kept."""

    metadata: Metadata[SignedT]
    content: bytes
    _good: dict[tuple[str, str], bool] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def signed_by(cls, signed: SignedT, signers: Iterable[Signer]) -> Document[SignedT]:
        """Return a first document of `signed`.

        Raises:
            TooLarge: ``tuf.full``.
            Unavailable: ``keys.…``: a signer fails.
        """
        return cls.of(Metadata(signed)).with_signatures_of(signers)

    @classmethod
    def of(cls, metadata: Metadata[SignedT]) -> Document[SignedT]:
        """Return the document of a metadata object, which must not change any more.

        Raises:
            TooLarge: ``tuf.full``.
        """
        content = metadata.to_bytes(_SERIALIZER)
        if len(content) > METADATA_BYTES_MAX:
            raise TooLarge(
                "tuf.full",
                f"signed metadata of {len(content)} bytes, devices accept {METADATA_BYTES_MAX}",
                hint="give a part of the models to a family of their own: edgectl keys delegate",
            )
        return cls(metadata, content)

    def with_signatures_of(self, signers: Iterable[Signer]) -> Document[SignedT]:
        """Return the document with these signatures too."""
        made = [signer.sign(self.signed_bytes) for signer in signers]
        return self.with_signatures({one.keyid: one for one in made}) if made else self

    def with_signatures(self, signatures: Mapping[str, Signature]) -> Document[SignedT]:
        """Return the document with these signatures too."""
        merged = {**self.metadata.signatures, **signatures}
        return Document.of(Metadata(self.signed, merged))

    @property
    def signed(self) -> SignedT:
        """What is signed."""
        return self.metadata.signed

    @property
    def version(self) -> int:
        """Its version."""
        return self.metadata.signed.version

    @cached_property
    def signed_bytes(self) -> bytes:
        """What the signatures are over."""
        return self.metadata.signed_bytes

    def signers_of(self, mandate: Mandate) -> list[str]:
        """Return which of the mandate's keys have signed well."""
        return [keyid for keyid in mandate.keyids if self._is_good(keyid, mandate.keys.get(keyid))]

    def missing(self, mandate: Mandate) -> int:
        """Return how many signatures are missing."""
        return max(0, mandate.threshold - len(self.signers_of(mandate)))

    def _is_good(self, keyid: str, key: Key | None) -> bool:
        signature = self.metadata.signatures.get(keyid)
        if key is None or signature is None:
            return False
        # The same id with another key in another delegation is another question.
        question = (keyid, str(key.to_dict()))
        if question not in self._good:
            try:
                key.verify_signature(signature, self.signed_bytes)
                self._good[question] = True
            except UnverifiedSignatureError:
                self._good[question] = False
        return self._good[question]


def read_document(content: bytes, kind: type[SignedT]) -> Document[SignedT]:
    """Decode metadata of one kind.

    Raises:
        Refused: ``tuf.malformed``.
    """
    if len(content) > METADATA_BYTES_MAX:
        raise _malformed(kind, f"more than {METADATA_BYTES_MAX} bytes")
    try:
        metadata: Metadata[SignedT] = Metadata.from_bytes(content)
    except (DeserializationError, RepositoryError, ValueError, RecursionError) as error:
        raise _malformed(kind, str(error)) from error
    if not isinstance(metadata.signed, kind):
        raise _malformed(kind, f"it is {metadata.signed.type} metadata")
    if len(metadata.signatures) > _SIGNATURES_MAX:
        raise _malformed(kind, "too many signatures")
    return Document(metadata, content)


def kind_of(role: str) -> str:
    """Return the kind of a role, a key of `LIFETIMES`."""
    if role == MODELS_ROLE or role.startswith(f"{BIN_NAME_PREFIX}-"):
        return "models"
    return role if role in LIFETIMES else "family"


def end_of(role: str, now: datetime) -> datetime:
    """Return when a version that is made now ends."""
    return now.astimezone(UTC).replace(microsecond=0) + LIFETIMES[kind_of(role)]


def copy_of(signed: SignedT, *, version: int, expires: datetime) -> SignedT:
    """Return an independent copy with another version and expiry."""
    copy = deepcopy(signed)
    copy.version = version
    copy.expires = expires
    return copy


def read_delegator(role: str, content: bytes) -> Document[Any]:
    """Decode a root, targets, or a family.

    Raises:
        Refused: ``tuf.malformed``.
    """
    return read_document(content, Root) if role == "root" else read_document(content, Targets)


def _malformed(kind: type[Signed], why: str) -> Refused:
    return Refused(
        "tuf.malformed",
        f"this is no {kind.type} metadata: {why}",
        hint="export it again: edgectl keys export",
    )


# ------------------------------------------------------------ who signs for what


def mandate_in_root(root: Root, role: str) -> Mandate:
    """Return who signs for a top-level role, or for orders."""
    if role == "orders":
        keys = order_keys_of(root)
        return Mandate(tuple(keys), 1, keys)
    named = root.roles[role]
    return Mandate(tuple(named.keyids), named.threshold, root.keys)


def order_keys_of(root: Root) -> dict[str, Key]:
    """Return the keys that the root lists for orders."""
    listed = root.unrecognized_fields.get(ORDER_KEYS_FIELD, {})
    return {keyid: Key.from_dict(keyid, dict(key)) for keyid, key in listed.items()}


def mandate_in_targets(targets: Targets, role: str) -> Mandate | None:
    """Return who signs for a role to which the top-level targets delegate; None: nobody."""
    delegations = targets.delegations
    if delegations is None or delegations.roles is None or role not in delegations.roles:
        return None
    named = delegations.roles[role]
    return Mandate(tuple(named.keyids), named.threshold, delegations.keys)


def mandate_of(delegator: Root | Targets, role: str) -> Mandate:
    """Return who signs for a role that is known to be there."""
    if isinstance(delegator, Root):
        return mandate_in_root(delegator, role)
    mandate = mandate_in_targets(delegator, role)
    assert mandate is not None, role
    return mandate


def mandate_in_models(models: Targets) -> Mandate | None:
    """Return who signs for the bins."""
    delegations = models.delegations
    if delegations is None or delegations.succinct_roles is None:
        return None
    named = delegations.succinct_roles
    return Mandate(tuple(named.keyids), named.threshold, delegations.keys)


def families_of(targets: Targets) -> dict[str, DelegatedRole]:
    """Return the model families, in the order in which they are asked."""
    delegations = targets.delegations
    roles = {} if delegations is None or delegations.roles is None else delegations.roles
    return {name: role for name, role in roles.items() if name != MODELS_ROLE}


def models_delegations(mandate: Mandate) -> Delegations:
    """Return the delegation of ``models`` to its bins, which the same keys sign."""
    keys = {keyid: mandate.keys[keyid] for keyid in mandate.keyids}
    bins = SuccinctRoles(list(mandate.keyids), mandate.threshold, BIN_BIT_LENGTH, BIN_NAME_PREFIX)
    return Delegations(keys, None, bins)


def first_targets(keys: Iterable[Key], now: datetime) -> Targets:
    """Return the first top-level targets: everything is delegated to ``models``."""
    listed = {key.keyid: key for key in keys}
    role = DelegatedRole(MODELS_ROLE, list(listed), 1, terminating=True, paths=[MODELS_PATTERN])
    return Targets(
        version=1,
        expires=end_of("targets", now),
        delegations=Delegations(listed, {MODELS_ROLE: role}),
    )


def meta_file(document: Document[Any]) -> MetaFile:
    """Return how another document refers to this one."""
    return MetaFile.from_data(document.version, document.content, ["sha256"])
