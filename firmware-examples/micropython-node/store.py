"""Two slots and a journal, as files; the same rules as `core/update.c`.

A slot is written only while it is neither active nor on trial. What is decided is saved before it
is acted on: one file, written beside and renamed, which littlefs and Linux do whole or not at all.
"""

import binascii
import json
import os

import bundle

ATTEMPTS_MAX = 3
_NOTHING = {
    "boot": 0,
    "active": None,
    "candidate": None,
    "attempts": 0,
    "floor": 0,
    "rejected": "",
    "order": 0,
    "nonce": "",
    "update": None,
    "notes": [None, None],
}


def _sync():
    if hasattr(os, "sync"):
        os.sync()


class Store:
    """What the device has, and what it has decided."""

    def __init__(self, folder, key, name, slot_bytes, arena_bytes):
        self.folder, self._key, self._name = folder, key, name
        self.slot_bytes, self._arena_bytes = slot_bytes, arena_bytes
        self.journal = self._read()
        self.model = None

    # ------------------------------------------------------------ the journal

    def _path(self, name):
        return self.folder + "/" + name

    def _read(self):
        try:
            with open(self._path("journal")) as file:
                check, _, text = file.read().partition(" ")
            if int(check, 16) == binascii.crc32(text.encode()):
                return json.loads(text)
        except (OSError, ValueError):
            pass
        return json.loads(json.dumps(_NOTHING))

    def save(self):
        """Have the journal on the disk."""
        text = json.dumps(self.journal)
        with open(self._path("journal.new"), "w") as file:
            file.write("%08x %s" % (binascii.crc32(text.encode()), text))
        _sync()
        os.rename(self._path("journal.new"), self._path("journal"))
        _sync()

    # ------------------------------------------------------------ slots

    def spare(self):
        """Return the number of the slot that does not run."""
        return 1 if self.journal["active"] == 0 else 0

    def slot_path(self, slot):
        """Return the file of a slot."""
        return self._path("slot-" + "ab"[slot])

    def running(self):
        """Return the note of what runs, or None."""
        active = self.journal["active"]
        return None if active is None else self.journal["notes"][active]

    def check(self, header):
        """Say whether a bundle may be installed, by its header; raise `Refused`."""
        found = bundle.Header(header, self._key, self._name)
        if self.journal["candidate"] is not None:
            raise bundle.Refused("busy")
        if not self._is_new_enough(found.counter):
            raise bundle.Refused("not_newer")
        if binascii.hexlify(found.digest[:8]).decode() == self.journal["rejected"]:
            raise bundle.Refused("rejected")
        if found.payload_bytes > self.slot_bytes - bundle.HEADER_BYTES:
            raise bundle.Refused("too_large")
        if found.arena_bytes > self._arena_bytes:
            raise bundle.Refused("too_large")
        return found

    def _is_new_enough(self, counter):
        """Above the floor; at it, only where the flash has lost what was committed."""
        floor, active = self.journal["floor"], self.journal["active"]
        if counter != floor or active is None:
            return counter > floor
        try:
            return self.model is None and self._load(active)[0].counter < floor
        except (bundle.Refused, OSError):
            return True
        except MemoryError:
            return False

    def _load(self, slot):
        return bundle.load(self.slot_path(slot), self._key, self._name, self._arena_bytes)

    def stage(self, note):
        """Put the whole bundle in the spare slot on trial; raise `Refused`."""
        _sync()
        spare = self.spare()
        self._load(spare)
        self.journal["notes"][spare] = note
        self.journal["candidate"], self.journal["attempts"] = spare, 0
        self.save()

    def boot(self):
        """Finish a trial, and load what runs; return the code of a rollback, or None."""
        failed = None
        candidate = self.journal["candidate"]
        if candidate is not None:
            failed = self._try(candidate)
        if self.journal["active"] is not None and self.model is None:
            try:
                header, _, self.model = self._load(self.journal["active"])
                if header.counter < self.journal["floor"]:
                    self.model = None
            except (bundle.Refused, OSError, MemoryError):
                self.model = None
        return failed

    def _try(self, candidate):
        failed = rejected = None
        try:
            with open(self.slot_path(candidate), "rb") as file:
                digest = binascii.hexlify(file.read(104)[96:]).decode()
            if self.journal["attempts"] >= ATTEMPTS_MAX:
                raise bundle.Refused("bad_self_test")
            self.journal["attempts"] += 1
            self.save()  # so that one that resets the device is counted
            header, cases, model = self._load(candidate)
            if not self._is_new_enough(header.counter):
                raise bundle.Refused("not_newer")
            bundle.prove(cases, model)
        except bundle.Refused as error:
            failed, rejected = error.code, digest
        except (OSError, MemoryError):
            failed = "firmware.flash_failed"  # not the bundle's fault: it may come again
        self.journal["candidate"] = None
        if failed is None:
            self.journal["active"], self.journal["floor"] = candidate, header.counter
            self.model = model
        elif rejected:
            self.journal["rejected"] = rejected
        self.save()
        return failed
