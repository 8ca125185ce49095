"""Versions from another server: what is believed of their files, and what is refused by name."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from agent.core.made import MadeBundle, simple_bundle
from agent.core.offline_file import Entries, entries_of, header, tar
from databases import open_migrated
from edgectl_protocol.chunks import CHUNK_BYTES, INDEX_ANNOTATION, make_index
from edgectl_protocol.encryption import ENCRYPTED_SUFFIX, ENCRYPTION_ANNOTATION, SCHEME
from edgectl_protocol.manifest import (
    CONFIG_FILE,
    GOLDEN_FILE,
    TITLE_ANNOTATION,
    Manifest,
    decode_manifest,
)
from edgectl_protocol.names import digest_of
from edgectl_protocol.offline import INDEX_FILE, METADATA_FOLDER, blob_file
from edgectl_server.audit import AuditLog
from edgectl_server.bundle_documents import BundleDocuments
from edgectl_server.clock import now
from edgectl_server.errors import ServerError
from edgectl_server.import_bundles import is_portable
from edgectl_server.imports import IMPORT, ImportHandler, Imports
from edgectl_server.jobs import Jobs
from edgectl_server.origins import fingerprint_of
from edgectl_server.pipeline.recipes import RECIPES
from edgectl_server.registry import Registry
from edgectl_server.schemas import ImportRequest
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Repository, Target
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.tables import AuditEntryRow, Blob, BundleVariant, ModelVersion, Origin
from edgectl_server.version_signing import VersionSigning
from waiting import wait_for

DOCUMENT = b"{}"
"""The card and the configuration of bundles that are made by hand."""
ONE = simple_bundle("1")


class OtherServer:
    """Signs and exports."""

    def __init__(self, directory: Path, at: datetime) -> None:
        self.keys = Keys.open(directory / "keys")
        self.repository = Repository.open(directory / "tuf", self.keys, at)

    @property
    def root(self) -> str:
        return fingerprint_of(self.repository.first_root)

    def export(self, *bundles: MadeBundle, at: datetime | None = None) -> Entries:
        targets = [Target(one.candidate.target, one.digest, len(one.manifest)) for one in bundles]
        self.repository.add_targets(targets, at or now())
        entries = entries_of(SimpleNamespace(repository=self.repository), *bundles)
        return entries | {blob_file(digest_of(DOCUMENT)): DOCUMENT}


class Ours:
    """The server that imports: everything of it but HTTP and a broker."""

    def __init__(self, directory: Path) -> None:
        self.database = open_migrated(f"sqlite:///{directory / 'edgectl.db'}")
        self.audit = AuditLog(self.database, now)
        self.blobs = BlobStore(str(directory / "blobs"))
        self.repository = Repository.open(directory / "tuf", Keys.open(directory / "keys"), now())
        self.jobs = Jobs(self.database, now)
        self.published = 0
        self.imports = Imports(self.database, self.blobs, self.jobs, now)
        self.handler = ImportHandler(
            directory / "imports",
            database=self.database,
            blobs=self.blobs,
            repository=self.repository,
            signing=VersionSigning(self.database, self.repository, now),
            publisher=SimpleNamespace(publish_metadata=self._publish),
            now=now,
        )
        self.jobs.register(IMPORT, self.handler)
        self.jobs.start()

    def _publish(self) -> None:
        self.published += 1

    def ask(self, content: bytes, **asked: Any) -> str:
        digest = self.blobs.add_bytes(content)
        with self.database.write() as session:
            session.merge(Blob(digest=digest, size=len(content), created_at=now()))
        role = asked.pop("role", "admin")
        request = ImportRequest(
            file=digest.partition(":")[2], filename="x.oci", **{"origin": "lab", **asked}
        )
        return self.imports.start(request, "ada", role).job

    def take(self, content: bytes, **asked: Any) -> dict[str, Any]:
        """Import, and return the job's result; raise its error as a `Failed`."""
        job = self.ask(content, **asked)
        row = wait_for(lambda: self._ended(job), "the import has ended")
        if row.error is not None:
            raise Failed(row.error["code"], row.error["detail"], row.error["hint"])
        assert row.state == "succeeded"
        return row.result

    def _ended(self, job: str) -> Any:
        row = self.jobs.get(job)
        return row if row.state in {"succeeded", "failed", "cancelled"} else None

    def nothing(self) -> bool:
        """Say whether nothing but the files that were sent is here."""
        with self.database.read() as session:
            rows = [session.scalars(select(one)).all() for one in (ModelVersion, Origin)]
            blobs = {one.digest: one.published for one in session.scalars(select(Blob))}
        stored = [path for path in Path(self.blobs._directory).rglob("*") if path.is_file()]
        return not any(rows) and not any(blobs.values()) and len(stored) == len(blobs)

    def close(self) -> None:
        self.jobs.close()
        self.database.close()


class Failed(Exception):
    def __init__(self, code: str, detail: str, hint: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.hint = code, hint


@pytest.fixture
def lab(tmp_path: Path) -> OtherServer:
    return OtherServer(tmp_path / "lab", now())


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Ours]:
    (tmp_path / "ours").mkdir()
    made = Ours(tmp_path / "ours")
    yield made
    made.close()


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises((Failed, ServerError)) as caught:
        call()
    assert caught.value.hint, caught.value
    return caught.value.code


# ---------------------------------------------------------------- what is good


def test_a_version_has_the_same_digests_here_and_is_signed_by_our_keys(lab, ours) -> None:
    other = simple_bundle("1", variant="fp32-b")
    entries = lab.export(ONE, other)
    done = ours.take(tar(entries), origin_root=lab.root)
    assert done == {
        "model": "activity", "version": "1", "created": True, "waits_for": None,
        "variants": ["fp32", "fp32-b"],
    }  # fmt: skip
    with ours.database.read() as session:
        version = session.scalars(select(ModelVersion)).one()
        variants = session.scalars(select(BundleVariant).order_by(BundleVariant.rank)).all()
        origin = session.scalars(select(Origin)).one()
        files = {one.digest: one.published for one in session.scalars(select(Blob))}
    assert set(files.values()) == {True}, "the uploaded file has served"
    assert version.state == "ready"
    assert [one.manifest for one in variants] == [ONE.digest, other.digest]
    for one in (ONE, other):
        signed = ours.repository.find(one.candidate.target)
        assert f"sha256:{signed.hashes['sha256']}" == one.digest
        for digest, content in one.blobs.items():
            assert ours.blobs.read(digest) == content
            assert files[digest]
        index = decode_manifest(one.manifest).layers[0].chunk_index
        assert ours.blobs.exists(index)  # devices fetch it
    assert ours.published
    assert (origin.pinned, fingerprint_of(origin.root)) == (lab.root, lab.root)


def test_the_origin_is_in_the_lineage_and_in_the_audit_log(lab, ours) -> None:
    content = tar(lab.export(ONE))
    ours.take(content, origin_root=lab.root)
    lineage = BundleDocuments(ours.database, ours.blobs).lineage("activity", "1")
    assert lineage.imported.model_dump(exclude={"imported_at"}) == {
        "origin": "lab", "root": lab.root, "root_version": 1, "file": digest_of(content),
        "filename": "x.oci", "pushed_by": "", "expired_for_s": 0,
    }  # fmt: skip
    assert lineage.source == ONE.config.lineage.source
    registry = Registry(
        ours.database, ours.blobs, ours.jobs, now, shares=list,
        waits_for=lambda: lambda _path: None,
    )  # fmt: skip
    shown = registry.version("activity", "1")
    assert shown.imported == lineage.imported
    assert [one.trial.recipe for one in shown.variants] == ["fp32"]
    with ours.database.read() as session:
        rows = session.scalars(select(AuditEntryRow)).all()
    told = {row.action: json.loads(row.details) for row in rows}
    assert told["pin_origin"] == {"root": lab.root}
    assert told["import_version"]["origin"] == "lab"
    assert {row.actor for row in rows if row.action in told} == {"ada"}


def test_imported_twice_it_is_there_already(lab, ours) -> None:
    entries = lab.export(ONE, simple_bundle("1", variant="fp32-b"))
    ours.take(tar(entries), origin_root=lab.root)
    assert ours.take(tar(entries))["created"] is False
    # A file with one of the variants alone, written later.
    lab.export(simple_bundle("2"))
    assert ours.take(tar(lab.export(ONE)), role="operator")["created"] is False


def test_what_the_origin_has_rotated_is_followed(lab, ours, tmp_path) -> None:
    ours.take(tar(lab.export(ONE)), origin_root=lab.root)
    lab.repository.rotate("timestamp", now())
    lab.repository.rotate("snapshot", now())
    ours.take(tar(lab.export(simple_bundle("2"))))
    (row,) = ours.imports.origins().items
    assert row.pinned == lab.root
    assert row.root == fingerprint_of(lab.repository.newest_root) != lab.root
    assert row.root_version == 3
    ours.take(tar(lab.export(simple_bundle("3"))), origin_root=row.root)


@pytest.mark.parametrize("when", ["rows", "signed"])
def test_an_import_goes_on_after_a_crash(lab, ours, monkeypatch, when) -> None:
    name = {"rows": "add_targets", "signed": "publish_metadata"}[when]
    whose = ours.repository if when == "rows" else ours.handler._publisher
    real, calls = getattr(whose, name), []

    def dies_once(*arguments):
        calls.append(1)
        if len(calls) == 1:
            from edgectl_server.errors import Unavailable

            raise Unavailable("test.away", "it is away")  # as after kill -9: the job begins again
        return real(*arguments)

    monkeypatch.setattr(whose, name, dies_once)
    assert ours.take(tar(lab.export(ONE)), origin_root=lab.root)["created"] is True
    assert len(calls) == 2


# ---------------------------------------------------------------- whom to believe


def test_a_new_origin_is_an_admins_to_name(lab, ours) -> None:
    content = tar(lab.export(ONE))
    assert code_of(lambda: ours.ask(content)) == "import.origin"
    assert code_of(lambda: ours.ask(content, origin_root=lab.root, role="operator")) == "import.pin"
    other = digest_of(b"another root")
    assert code_of(lambda: ours.take(content, origin_root=other)) == "import.root"
    assert ours.nothing()
    ours.take(content, origin_root=lab.root)
    assert code_of(lambda: ours.ask(content + bytes(512), origin_root=other)) == "import.root"


def test_a_forgotten_origin_is_named_anew(lab, ours) -> None:
    ours.take(tar(lab.export(ONE)), origin_root=lab.root)
    ours.imports.forget("lab")
    assert code_of(lambda: ours.imports.forget("lab")) == "import.unknown_origin"
    assert code_of(lambda: ours.ask(tar(lab.export(ONE)))) == "import.origin"
    with ours.database.read() as session:
        assert session.scalars(select(ModelVersion)).one().state == "ready"


def test_another_server_under_the_name_of_a_known_one(lab, ours, tmp_path) -> None:
    ours.take(tar(lab.export(ONE)), origin_root=lab.root)
    thief = OtherServer(tmp_path / "thief", now())
    for _ in range(3):
        thief.repository.rotate("timestamp", now())  # its versions are higher than the lab's
    content = tar(thief.export(simple_bundle("2")))
    assert code_of(lambda: ours.take(content)) == "import.untrusted"


def test_signatures_that_have_ended(tmp_path, ours) -> None:
    old = OtherServer(tmp_path / "old", now() - timedelta(days=5))
    entries = old.export(ONE, at=now() - timedelta(days=5))
    assert code_of(lambda: ours.take(tar(entries), origin_root=old.root)) == "import.expired"
    short = {"origin_root": old.root, "expired_for_s": 3600}
    assert code_of(lambda: ours.take(tar(entries), **short)) == "import.expired"
    assert ours.nothing()
    ours.take(tar(entries), origin_root=old.root, expired_for_s=6 * 86400)
    lineage = BundleDocuments(ours.database, ours.blobs).lineage("activity", "1")
    assert lineage.imported.expired_for_s == 6 * 86400


def test_nothing_older_than_what_was_imported_before(lab, ours) -> None:
    before = tar(lab.export(ONE))
    ours.take(tar(lab.export(simple_bundle("2"))), origin_root=lab.root)
    assert code_of(lambda: ours.take(before)) == "import.rollback"
    late = {"expired_for_s": 86400}  # which changes nothing about that
    assert code_of(lambda: ours.take(before, **late)) == "import.rollback"


def test_files_of_two_moments_are_no_file(lab, ours) -> None:
    before = lab.export(ONE)
    after = lab.export(simple_bundle("2"))
    metadata = {name for name in after if name.startswith(METADATA_FOLDER)}
    for name in sorted(metadata):
        if name.endswith("root.json"):
            continue
        same_role = [one for one in before if one.rpartition(".")[0].endswith(name.split(".")[-2])]
        mixed = dict(after)
        if not same_role or before[same_role[0]] == after[name]:
            continue
        mixed[name] = before[same_role[0]]
        said = code_of(lambda mixed=mixed: ours.take(tar(mixed), origin_root=lab.root))
        assert said in {"import.untrusted", "import.rollback", "import.incomplete"}, name
    assert ours.nothing()


def test_each_file_of_metadata_is_needed_and_none_may_be_altered(lab, ours) -> None:
    entries = lab.export(ONE)
    for name in [one for one in entries if one.startswith(METADATA_FOLDER)]:
        without = {one: content for one, content in entries.items() if one != name}
        altered = entries | {name: entries[name].replace(b"20", b"21", 1)}
        for content in (tar(without), tar(altered)):
            said = code_of(lambda content=content: ours.take(content, origin_root=lab.root))
            assert said in {"import.incomplete", "import.root", "import.untrusted"}, name
    assert ours.nothing()


def test_metadata_that_takes_a_parser_apart(lab, ours) -> None:
    entries = lab.export(ONE)
    name = METADATA_FOLDER + "timestamp.json"
    for bad in (b"", b"[" * 90_000, b'{"signed": {"version": 1e400}}', b"\xff" * 100, b"null"):
        content = tar(entries | {name: bad})
        said = code_of(lambda content=content: ours.take(content, origin_root=lab.root))
        assert said == "import.untrusted", bad[:20]
    assert ours.nothing()


# ---------------------------------------------------------------- archives


def spoiled(entries: Entries) -> dict[str, tuple[str, bytes]]:
    """Archives that were altered, each with the code of its refusal."""
    model = blob_file(decode_manifest(ONE.manifest).layers[0].digest)
    flipped = entries[model][:-1] + b"\0"
    other = simple_bundle("2")
    good, index = tar(entries), entries[INDEX_FILE]
    not_signed = index.replace(ONE.digest.encode(), other.digest.encode())
    link = header("blobs/sha256/" + "a" * 64, 0, b"2", link="/etc/passwd")
    return {
        "a blob that was altered": ("offline.damaged", tar(entries | {model: flipped})),
        "a blob that is shorter": ("offline.damaged", tar(entries | {model: flipped[:-9]})),
        "a blob that is longer": ("offline.damaged", tar(entries | {model: flipped + b"x"})),
        "a blob that is missing": (
            "offline.malformed",
            tar({name: one for name, one in entries.items() if name != model}),
        ),
        "a name twice": ("offline.malformed", tar([*entries.items(), (INDEX_FILE, b"{}")])),
        "out of the folder": ("offline.malformed", tar(entries | {"../../etc/cron.d/x": b"x"})),
        "from the root": ("offline.malformed", tar(entries | {"/etc/cron.d/x": b"x"})),
        "a link": ("offline.malformed", link + good),
        "a bomb": ("offline.compressed", gzip.compress(bytes(10_000_000))),
        "cut off": ("offline.truncated", good[: len(good) // 2]),
        "nothing": ("offline.truncated", b""),
        "no tar": ("offline.malformed", b"x" * 4096),
        "an index of nothing": ("offline.malformed", tar(entries | {INDEX_FILE: b"[]"})),
        "an index of what is not signed": (
            "import.target",
            tar(
                entries
                | {INDEX_FILE: not_signed}
                | {blob_file(digest): content for digest, content in other.blobs.items()}
            ),
        ),
        "an index under another name": (
            "import.incomplete",  # nothing of the metadata is about that one
            tar(entries | {INDEX_FILE: index.replace(b"activity/1/", b"activity/9/")}),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("what", sorted(spoiled(entries_of(SimpleNamespace(
    repository=SimpleNamespace(metadata_for=lambda _: [])), ONE))))  # fmt: skip
def test_altered_archives_are_refused_by_name_and_leave_nothing(lab, ours, what) -> None:
    code, content = spoiled(lab.export(ONE))[what]
    assert code_of(lambda: ours.take(content, origin_root=lab.root)) == code
    assert ours.nothing()


def resigned(change: Callable[[Manifest], Manifest], *more: bytes) -> tuple[MadeBundle, Entries]:
    """A bundle whose manifest says something else, which the origin has signed all the same."""
    manifest = msgspec.json.encode(change(decode_manifest(ONE.manifest)))
    blobs = {digest: one for digest, one in ONE.blobs.items() if digest != ONE.digest}
    blobs |= {digest_of(one): one for one in (manifest, *more)}
    made = dataclasses.replace(ONE, manifest=manifest, blobs=blobs)
    return made, {blob_file(digest): content for digest, content in blobs.items()}


def with_layers(change: Callable[[Any], Any]) -> Callable[[Manifest], Manifest]:
    def changed(manifest: Manifest) -> Manifest:
        layers = (change(one) for one in manifest.layers)
        return msgspec.structs.replace(
            manifest, layers=tuple(one for one in layers if one is not None)
        )

    return changed


def bad_bundles() -> dict[str, tuple[str, MadeBundle]]:
    """Bundles of an origin that is not careful, or that somebody has taken over."""
    replace = msgspec.structs.replace
    config = msgspec.json.encode(replace(ONE.config, version="7"))
    flat = msgspec.json.encode(replace(ONE.config, runtime="cortex-m", format="flat"))

    def sealed(layer: Any) -> Any:
        if layer.file not in {"model.onnx", GOLDEN_FILE}:
            return layer
        return replace(
            layer,
            media_type=layer.media_type + ENCRYPTED_SUFFIX,
            annotations=layer.annotations | {ENCRYPTION_ANNOTATION: SCHEME},
        )

    def other_index(layer: Any) -> Any:
        if layer.chunk_index is None:
            return layer
        index = digest_of(make_index([bytes(CHUNK_BYTES)] * 4))
        return replace(layer, annotations=layer.annotations | {INDEX_ANNOTATION: index})

    def other_config(layer: Any) -> Any:
        if layer.file != CONFIG_FILE:
            return layer
        return replace(layer, digest=digest_of(config), size=len(config))

    def for_boards(layer: Any) -> Any:
        if layer.file == CONFIG_FILE:
            return replace(layer, digest=digest_of(flat), size=len(flat))
        if layer.file != "model.onnx":
            return layer
        return replace(layer, annotations=layer.annotations | {TITLE_ANNOTATION: "model.emb"})

    def without(file: str) -> Callable[[Any], Any]:
        return lambda layer: None if layer.file == file else layer

    def lying(layer: Any) -> Any:
        return replace(layer, size=layer.size - 1) if layer.file == "model.onnx" else layer

    cases = {
        "sealed": ("import.encrypted", sealed, ()),
        "for microcontrollers": ("import.microcontroller", for_boards, (flat,)),
        "another chunk index": ("import.bundle", other_index, ()),
        "of another version": ("import.bundle", other_config, (config,)),
        "no description": ("import.bundle", without(CONFIG_FILE), ()),
        "no golden data": ("import.bundle", without(GOLDEN_FILE), ()),
        "no model": ("import.bundle", without("model.onnx"), ()),
        "a size that lies": ("offline.damaged", lying, ()),
    }
    return {
        name: (code, resigned(with_layers(change), *more)[0])
        for name, (code, change, more) in cases.items()
    }


@pytest.mark.parametrize("what", sorted(bad_bundles()))
def test_what_the_origin_signs_is_checked_too(lab, ours, what) -> None:
    code, bundle = bad_bundles()[what]
    content = tar(lab.export(bundle))
    assert code_of(lambda: ours.take(content, origin_root=lab.root)) == code
    assert ours.nothing()


def test_a_version_never_changes(lab, ours, tmp_path) -> None:
    ours.take(tar(lab.export(ONE)), origin_root=lab.root)
    fab = OtherServer(tmp_path / "fab", now())
    other = simple_bundle("1", length=100_000)
    content = tar(fab.export(other))
    named = {"origin": "fab", "origin_root": fab.root}
    assert code_of(lambda: ours.take(content, **named)) == "version.exists"
    with ours.database.read() as session:
        assert session.scalars(select(BundleVariant)).one().manifest == ONE.digest
        assert [one.name for one in session.scalars(select(Origin))] == ["lab"]


def test_which_recipes_are_right_on_every_processor() -> None:
    made = [recipe for one in RECIPES for recipe in (one, one.mixed(("a",)), one.of_parent())]
    for recipe in made:
        assert is_portable(recipe.name) == recipe.portable, recipe.name
    assert is_portable("fp32")
    assert not is_portable("something-new")
