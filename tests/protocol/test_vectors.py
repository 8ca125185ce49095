"""The contract against its golden vectors; other languages run the same files."""

import json
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from edgectl_protocol import chunks, enrolment, manifest, messages, names, pulls, topics, update
from edgectl_protocol.errors import ProtocolError

VECTORS = Path(__file__).parent.parent / "vectors"


def vectors(name):
    return json.loads((VECTORS / name).read_text())


def cases(name):
    return [pytest.param(case, id=case["name"]) for case in vectors(name)["cases"]]


def test_update_table_is_the_published_one():
    published = vectors("update.json")
    assert [[s, e, t] for (s, e), t in update.TRANSITIONS.items()] == published["transitions"]
    assert [[s, t] for s, t in update.RESUME.items()] == published["resume"]
    assert [
        [s, update.resume_state(s, update.RESUMES_MAX)] for s in update.UpdateState
    ] == published["given_up"]
    assert sorted(update.ENDED) == published["ended"]


@pytest.mark.parametrize("case", cases("messages.json"))
def test_messages(case):
    if "hex" in case:
        payload = bytes.fromhex(case["hex"])
    else:
        payload = case["json"].encode() if "json" in case else b" " * case["repeat"]
    kind = getattr(messages, case["type"])
    if case["error"] is None:
        message = messages.decode(kind, payload)
        assert messages.decode(kind, messages.encode(message)) == message
    else:
        with pytest.raises(ProtocolError) as caught:
            messages.decode(kind, payload)
        assert caught.value.code == case["error"]


@pytest.mark.parametrize("case", cases("manifests.json"))
def test_manifests(case):
    content = json.dumps(case["manifest"]).encode()
    if case["error"] is None:
        decoded = manifest.decode_manifest(content)
        files = [layer.file for layer in manifest.device_layers(decoded)]
        assert files == case["device_files"]
        assert manifest.decode_manifest(msgspec.json.encode(decoded)) == decoded
    else:
        with pytest.raises(ProtocolError) as caught:
            manifest.decode_manifest(content)
        assert caught.value.code == case["error"]


@pytest.mark.parametrize("case", cases("configs.json"))
def test_configs(case):
    content = json.dumps(case["config"]).encode()
    if case["error"] is None:
        decoded = manifest.decode_config(content)
        assert [[gate.name, gate.status] for gate in decoded.gates] == case["gates"]
        assert manifest.decode_config(msgspec.json.encode(decoded)) == decoded
    else:
        with pytest.raises(ProtocolError) as caught:
            manifest.decode_config(content)
        assert caught.value.code == case["error"]


def test_chunks():
    published = vectors("chunks.json")
    blob = bytes(range(256)) * published["repeat"]
    lengths = published["lengths"]
    parts, at = [], 0
    for length in lengths:
        parts.append(blob[at : at + length])
        at += length
    index = chunks.make_index(parts)
    assert index.hex() == published["index_hex"]
    assert names.digest_of(blob) == published["digest"]
    assert [chunks.chunk_length(len(blob), n) for n in range(len(parts))] == lengths
    assert [[n, chunks.chunk_count(n)] for n, _ in published["counts"]] == published["counts"]
    digests = chunks.parse_index(index, digest=published["index_digest"], length=len(blob))
    assert b"".join(digests) == index
    bits = chunks.Bitmap(published["bitmap"]["count"])
    for number in published["bitmap"]["set"]:
        bits.add(number)
    assert bits.to_bytes().hex() == published["bitmap"]["hex"]


def test_topics():
    published = vectors("topics.json")
    digest = "sha256:" + "ab" * 32
    assert published["built"] == {
        "head": topics.head(),
        "timestamp": topics.metadata("timestamp", None),
        "root": topics.metadata("root", 1),
        "bin": topics.metadata("bin-3f", 12),
        "chunk": topics.chunk(digest, 3),
        "index": topics.chunk_index(digest),
        "order": topics.order("pi-1"),
        "ack": topics.ack("pi-1"),
        "command": topics.command("pi-1"),
        "state": topics.state("pi-1"),
        "telemetry": topics.telemetry("pi-1"),
        "event": topics.event("pi-1"),
        "seed": topics.seed("pi-1"),
        "wanted": topics.wanted("pi-1"),
        "upload_chunk": topics.upload_chunk("pi-1"),
        "alerts": topics.alerts(),
        "device_alert": topics.device_alert("pi-1"),
    }
    for name, action, topic, expected in published["access"]:
        assert topics.allowed(name, action, topic) is expected, (name, action, topic)
    for pattern, topic, expected in published["matches"]:
        assert topics.matches(pattern, topic) is expected, (pattern, topic)


def test_pulls():
    published = vectors("pulls.json")
    asked = (published["model"], published["digest"])
    assert pulls.manifest_path(*asked) == published["manifest_path"]
    path = pulls.blob_path(*asked)
    assert path == published["blob_path"]
    said = {"device": published["device"], "at": published["at"]}
    assert pulls.pull_text(path=path, **said).hex() == published["pull_text_hex"]
    proof = pulls.PullProof(proof=published["proof"], **said)
    assert pulls.format_pull(proof) == published["authorization"]
    assert pulls.parse_pull(published["authorization"]) == proof
    for wrong in ("", "EdgectlDevice", published["authorization"] + ",", "Basic eDp5"):
        with pytest.raises(ProtocolError):
            pulls.parse_pull(wrong)


def test_enrolment():
    published = vectors("enrolment.json")
    token = enrolment.parse_token(published["token"])
    key = enrolment.key_of(token.secret)
    assert enrolment.format_token(token) == published["token"]
    assert key.hex() == published["key_hex"]
    request = {name: published[name] for name in ("nonce", "device", "csr_pem")}
    assert enrolment.request_proof(key, **request) == published["proof"]
    reply = {name: published[name] for name in ("nonce", "enrolment")}
    assert enrolment.reply_mac(key, **reply) == published["mac"]
    assert enrolment.request_text(**request).hex() == published["request_text_hex"]
    assert enrolment.reply_text(**reply).hex() == published["reply_text_hex"]


def test_enrolment_without_a_token_and_renewal():
    published = vectors("enrolment.json")
    nonce = published["nonce"]
    asked = enrolment.renewal_text(nonce=nonce, device=published["device"])
    assert asked.hex() == published["renewal_text_hex"]
    answered = enrolment.renewed_text(nonce=nonce, renewal=published["renewal"])
    assert answered.hex() == published["renewed_text_hex"]
    der = bytes.fromhex(published["public_key_der_hex"])
    fingerprint = enrolment.fingerprint_of(der)
    assert enrolment.format_fingerprint(fingerprint) == published["fingerprint"]
    key = load_der_public_key(der)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(bytes.fromhex(published["renewal_signature"]), asked, ec.ECDSA(SHA256()))


@pytest.mark.parametrize(
    "text",
    [
        "AB" * 32,
        " sha256:" + "ab" * 32 + "\n",
        "-".join(["abab"] * 16),
        ":".join(["AB"] * 32),
        "sha256:" + " ".join(["abab"] * 16),
    ],
)
def test_a_fingerprint_is_read_however_it_was_copied(text):
    assert enrolment.parse_fingerprint(text) == "ab" * 32


@pytest.mark.parametrize(
    "text", ["", "ab" * 31, "ab" * 33, "zz" * 32, "sha1:" + "ab" * 32, "\u0661" * 64]
)
def test_a_part_of_a_fingerprint_is_none(text):
    with pytest.raises(ProtocolError):
        enrolment.parse_fingerprint(text)
