"""A sensor node with a model that the server updates: ``micropython node.py FOLDER MODEL KEY``.

FOLDER holds `identity`, which provision.py has written, and what the node stores. MODEL is the name
of the model, KEY the public key that signs bundles, 64 digits. On a board call `main` from main.py.
"""

import binascii
import hashlib
import json
import sys
import time

import bundle
import wire
from identity import Identity
from mqtt import Broken, Client
from store import Store

SLOT_BYTES = 256 * 1024
ARENA_BYTES = 64 * 1024
CHUNK_BYTES = 64 * 1024
_PIECE_BYTES = 1024
_MESSAGE_MAX = 16 * 1024
_KEEP_ALIVE_S = 30
_WAIT_PIECE_S = 5
_WAIT_RETRY_S = 5
_RETRY_MAX_S = 3600
_RETRIES_MAX_S = 60


def tell(event, detail=""):
    """Say something to whoever looks at the console."""
    print(json.dumps({"event": event, "detail": str(detail)}))


class Node:
    """The device of one model."""

    def __init__(self, folder, model, key, read_sensor, use):
        with open(folder + "/identity", "rb") as file:
            self.identity = Identity(file.read())
        self._model, self._read_sensor, self._use = model, read_sensor, use
        self._store = Store(folder, binascii.unhexlify(key), model, SLOT_BYTES, ARENA_BYTES)
        self._base = "edgectl/v1/d/" + self.identity.device
        self._client, self._connection, self._sequence = None, 0, 0
        self._refusal, self._refused = None, None
        self._order, self._wanted, self._fetch = None, None, None
        self._retry_s, self._news = 0, True
        self._begin()

    def _begin(self):
        store = self._store
        store.journal["boot"] += 1
        store.save()
        trial = store.journal["candidate"] is not None
        failed = store.boot()
        if trial:
            self._end_trial(failed)
        tell("boot", store.journal["floor"] if store.model else 0)

    # ------------------------------------------------------------ what is said

    def _state(self, online):
        journal = self._store.journal
        state = {
            "device": self.identity.device,
            "boot": journal["boot"],
            "seq": self._sequence if online else 0,
            "online": online,
            "connection": self._connection,
        }
        if not online:
            return state
        state["sent_at"] = wire.date(time.time())
        state["agent_version"] = "micropython-node"
        if journal["order"]:
            state["order_counter"], state["order_nonce"] = journal["order"], journal["nonce"]
        if self._refusal:
            state["refusal"] = {"code": self._refusal, "detail": self._refusal}
            if self._refused:
                state["refused_counter"] = self._refused
        state["capabilities"] = {"machine": sys.platform, "runtimes": {"cortex-m": "1"}}
        slot, running = {}, self._store.running()
        if running:
            slot["running"] = {
                key: running[key] for key in ("version", "variant", "manifest", "since")
            }
        if journal["update"]:
            slot["update"] = journal["update"]
            if journal["update"]["state"] == "rejected":
                state["rejected"] = [journal["update"]["manifest"]]
        state["slots"] = {self._model: slot}
        return state

    def _say(self):
        self._sequence += 1
        message = wire.seal(self.identity, "state", self._state(True))
        self._client.publish(self._base + "/up/state", message, True)
        self._news = False

    def _set_update(self, state, code=None, **fields):
        update = self._store.journal["update"]
        update["state"] = state
        update.update(fields)
        update.pop("reason", None)
        if code:
            update["reason"] = {"code": code, "detail": code}
            tell(code, update["version"])
        self._news = True

    # ------------------------------------------------------------ orders

    def _take_order(self, content):
        journal = self._store.journal
        self._news = True
        try:
            counter, nonce, release = wire.read_order(
                self.identity, self._model, journal["order"], content
            )
        except wire.OrderRefused as error:
            self._refusal, self._refused = error.code, error.counter
            return
        self._refusal = self._refused = None
        is_new = counter > journal["order"]
        journal["order"], journal["nonce"] = counter, nonce
        self._store.save()
        self._obey(is_new, release)

    def _obey(self, is_new, release):
        update, running = self._store.journal["update"], self._store.running()
        if release is None:
            if self._fetch or (update and update["state"] == "failed"):
                self._stop_fetching()
                self._store.journal["update"] = None
                self._store.save()
            return
        same = update is not None and update["manifest"] == release["manifest"]
        if self._fetch and same:
            update["order"] = self._store.journal["order"]
        elif running and self._store.model and running["manifest"] == release["manifest"]:
            self._stop_fetching()
            if not same:
                self._note_update(release)
            self._set_update("committed", order=self._store.journal["order"])
        elif is_new or not same or update["state"] != "rejected":
            self._fetch_release(release)

    def _note_update(self, release):
        before = self._store.journal["update"] or {}
        same = before.get("manifest") == release["manifest"]
        update = dict(release)
        update["order"] = self._store.journal["order"]
        update["attempt"] = before.get("attempt", 0) + 1 if same else 1
        update["bytes_done"] = update["bytes_total"] = 0
        self._store.journal["update"] = update

    # ------------------------------------------------------------ fetching

    def _fetch_release(self, release):
        self._stop_fetching()
        self._release = release
        self._note_update(release)
        self._set_update("downloading")
        self._fetch = {"blob": release["manifest"], "piece": "0", "what": "manifest"}
        self._want()

    def _topic(self):
        return "edgectl/v1/blob/" + self._fetch["blob"][7:] + "/" + self._fetch["piece"]

    def _want(self):
        if self._client is None:
            return
        if self._wanted:
            self._client.unsubscribe(self._wanted)
        self._wanted = self._topic() if self._fetch else None
        if self._wanted:
            self._client.subscribe(self._wanted)
        self._asked = time.time()

    def _stop_fetching(self):
        if self._fetch and self._fetch.get("file"):
            self._fetch["file"].close()
        self._fetch = None
        self._want()

    def _ask_by_name(self):
        piece = -1 if self._fetch["piece"] == "index" else int(self._fetch["piece"])
        seed = {
            "device": self.identity.device,
            "blob": self._fetch["blob"],
            "chunks": [piece],
        }
        self._client.publish(self._base + "/up/seed", wire.seal(self.identity, "seed", seed))
        self._asked = time.time()

    def _take_piece(self, length, read):
        fetch = self._fetch
        try:
            if fetch["what"] == "chunk":
                self._take_chunk(length, read)
            elif length <= _MESSAGE_MAX:
                content = read_all(read, length)
                if fetch["what"] == "manifest":
                    self._take_manifest(content)
                else:
                    self._take_index(content)
        except bundle.Refused as error:
            again = error.code in ("firmware.bad_payload", "firmware.busy")
            self._give_up("failed" if again else "rejected", error.code)
        except MemoryError:
            self._give_up("failed", "firmware.flash_failed")

    def _give_up(self, state, code):
        self._stop_fetching()
        self._set_update(state, code)
        self._wait()
        self._store.save()

    def _wait(self):
        """Try again later, each time twice as late: every attempt writes to flash."""
        attempt = self._store.journal["update"]["attempt"]
        self._retry_s = time.time() + min(_WAIT_RETRY_S << min(attempt - 1, 16), _RETRY_MAX_S)

    def _take_manifest(self, content):
        if digest(content) != self._fetch["blob"]:
            return
        try:
            blob, size, index = wire.read_layer(content)
        except (ValueError, KeyError, TypeError):
            raise bundle.Refused("bad_bundle") from None
        if size > SLOT_BYTES or size < bundle.HEADER_BYTES:
            raise bundle.Refused("too_large" if size > SLOT_BYTES else "bad_bundle")
        self._fetch.update({"blob": blob, "size": size, "index": index, "chunks": [blob[7:]]})
        self._store.journal["update"]["bytes_total"] = size
        if size > CHUNK_BYTES:
            self._fetch.update({"piece": "index", "what": "index"})
            self._want()
        else:
            self._begin_chunks()

    def _take_index(self, content):
        count = -(-self._fetch["size"] // CHUNK_BYTES)
        if digest(content) != self._fetch["index"] or len(content) != 32 * count:
            return
        self._fetch["chunks"] = [
            binascii.hexlify(content[at : at + 32]).decode() for at in range(0, 32 * count, 32)
        ]
        self._begin_chunks()

    def _begin_chunks(self):
        store = self._store
        store.journal["notes"][store.spare()] = None  # nobody knows what is in it, for a while
        self._fetch.update({"piece": "0", "what": "chunk", "file": None})
        self._want()

    def _take_chunk(self, length, read):
        """Write a chunk behind those that are there; nothing before the header is checked."""
        fetch = self._fetch
        number = int(fetch["piece"])
        begin = number * CHUNK_BYTES
        if length != min(CHUNK_BYTES, fetch["size"] - begin):
            return
        hash = hashlib.sha256()
        if number == 0 and fetch["file"] is None:
            header = read_all(read, bundle.HEADER_BYTES)
            try:
                found = self._store.check(header)
                if found.payload_bytes + bundle.HEADER_BYTES != fetch["size"]:
                    raise bundle.Refused("bad_bundle")
            except bundle.Refused:
                if self._is_signed(hash, header, length, read, fetch["chunks"][0]):
                    raise
                return  # somebody in between has altered it
            path = self._store.slot_path(self._store.spare())
            fetch["file"] = open(path, "wb")  # noqa: SIM115 - for all chunks
            fetch["file"].write(header)
            hash.update(header)
            length -= len(header)
        file = fetch["file"]
        if number or file.tell() == 0:
            file.seek(begin)
        while length:
            piece = read(_PIECE_BYTES)
            hash.update(piece)
            file.write(piece)
            length -= len(piece)
        if binascii.hexlify(hash.digest()).decode() != fetch["chunks"][number]:
            if number == 0:
                file.close()
                fetch["file"] = None
            return
        self._store.journal["update"]["bytes_done"] = min(fetch["size"], begin + CHUNK_BYTES)
        self._news = True
        if number + 1 < len(fetch["chunks"]):
            fetch["piece"] = str(number + 1)
            self._want()
        else:
            self._install()

    def _is_signed(self, hash, header, length, read, wanted):
        hash.update(header)
        length -= len(header)
        while length:
            piece = read(_PIECE_BYTES)
            hash.update(piece)
            length -= len(piece)
        return binascii.hexlify(hash.digest()).decode() == wanted

    def _install(self):
        release = self._release
        self._stop_fetching()
        note = dict(release)
        note["since"] = wire.date(time.time())
        self._store.stage(note)  # what it is, not how it came: a refusal is final
        self._set_update("trial")
        self._say()
        self._end_trial(self._store.boot())

    def _end_trial(self, failed):
        if failed:
            again = failed == "firmware.flash_failed"
            self._set_update("failed" if again else "rejected", failed)
            self._wait()
        else:
            self._set_update("committed")
        self._store.save()
        tell("runs", (self._store.running() or {}).get("version"))

    # ------------------------------------------------------------ the loop

    def _take(self, topic, length, read):
        if not length:
            return
        if topic == self._base + "/down/order" and length <= _MESSAGE_MAX:
            self._take_order(read_all(read, length))
        elif self._fetch and topic == self._wanted:
            self._asked = time.time()
            self._take_piece(length, read)

    def connect(self):
        """Connect, and begin again what was under way."""
        self._connection += 1
        will = wire.seal(self.identity, "state", self._state(False))
        self._client = Client(
            self.identity, self._base + "/up/state", will, _KEEP_ALIVE_S, self._take
        )
        self._client.subscribe(self._base + "/down/order")
        self._wanted, self._news = None, True
        if self._fetch:
            self._want()
        tell("connected", self._connection)

    def step(self):
        """Do what there is to do, for a tenth of a second at most."""
        self._client.poll(100)
        update = self._store.journal["update"]
        if self._fetch and time.time() - self._asked > _WAIT_PIECE_S:
            self._ask_by_name()
        if update and update["state"] == "failed" and time.time() >= self._retry_s:
            self._fetch_release({key: update[key] for key in _RELEASE if key in update})
        if self._news:
            self._say()
        model = self._store.model
        if model:
            values = self._read_sensor(model)
            if values is not None:
                self._use(model.run(values))

    def run(self):
        """Be a device, for ever."""
        wait_s = 1
        while True:
            try:
                self.connect()
                wait_s = 1
                while True:
                    self.step()
            except (OSError, Broken, ValueError) as error:
                tell("disconnected", error)
            if self._client:
                self._client.close()
                self._client = None
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _RETRIES_MAX_S)


_RELEASE = ("version", "variant", "manifest", "rollout")


def read_all(read, length):
    """Read exactly so many bytes."""
    content = b""
    while len(content) < length:
        content += read(length - len(content))
    return content


def digest(content):
    """Return the SHA-256 of content, as messages have it."""
    return "sha256:" + binascii.hexlify(hashlib.sha256(content).digest()).decode()


def main(folder, model, key, read_sensor=None, use=None):
    """Run the node; a program of yours gives `read_sensor(model)` and `use(answer)`."""
    Node(folder, model, key, read_sensor or (lambda _model: None), use or tell).run()


if __name__ == "__main__":
    main(*sys.argv[1:4])
