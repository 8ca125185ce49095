"""Ask the node's modules, in MicroPython or in CPython: python node_answers.py MODULES QUESTIONS.

QUESTIONS is a file of JSON, what is printed too: see `test_micropython_node.py`. Written for both.
"""

import binascii
import json
import sys

sys.path.insert(0, sys.argv[1])

import bundle
import ed25519
import p256
import store
from flat_model import BadModel, FlatModel
from sha512 import SHA512


ARENA_BYTES = 65536


def unpack(text):
    return binascii.a2b_base64(text)


def pack(content):
    return binascii.b2a_base64(content).decode().strip()


def run_model(one):
    """Return the outputs of all inputs, one behind the other; None: the model is refused.

    One that needs more memory than a node has is "large".
    """
    try:
        model = FlatModel(unpack(one["model"]))
    except BadModel:
        return None
    if model.arena_bytes > ARENA_BYTES:
        return "large"
    inputs, size = unpack(one["inputs"]), model.input.elements
    outputs = [model.run(inputs[at : at + size]) for at in range(0, len(inputs), size)]
    return pack(b"".join(outputs))


def install(one, folder, key, name):
    """Return what becomes of a bundle on a device that runs nothing: ok, or a code."""
    device = store.Store(folder, key, name, 65536, ARENA_BYTES)
    device.journal = json.loads(json.dumps(store._NOTHING))
    content = unpack(one)
    try:
        device.check(content[:224])
        with open(device.slot_path(0), "wb") as file:
            file.write(content)
        device.stage(None)
    except bundle.Refused as error:
        return error.code
    return device.boot() or "ok"


class Gone:
    """Stands for what a trial calls, and fails as a board does for reasons of its own."""

    def __init__(self, error):
        self._error = error

    def __call__(self, cases, model):
        raise self._error


def unlucky(one, folder, key, name):
    """Return what becomes of trials without memory, of one that cannot read, of one in peace."""
    device = store.Store(folder, key, name, 65536, ARENA_BYTES)
    device.journal = json.loads(json.dumps(store._NOTHING))
    content, prove, said = unpack(one), bundle.prove, []
    for call in (Gone(MemoryError()), Gone(OSError(5)), prove):
        try:
            device.check(content[:224])
            with open(device.slot_path(device.spare()), "wb") as file:
                file.write(content)
            device.stage(None)
            bundle.prove = call
            said.append(device.boot() or "ok")
        except bundle.Refused as error:
            said.append(error.code)
        bundle.prove = prove
    return said


def rotten(older, newer, folder, key, name):
    """Return what becomes of the older and of the same bundle once flash has lost a byte."""
    device = store.Store(folder, key, name, 65536, ARENA_BYTES)
    device.journal = json.loads(json.dumps(store._NOTHING))
    said = []
    for one in (older, newer, newer, None, older, newer):
        if one is None:
            with open(device.slot_path(device.journal["active"]), "r+b") as file:
                file.seek(300)
                byte = file.read(1)[0]
                file.seek(300)
                file.write(bytes([byte ^ 1]))
            device = store.Store(folder, key, name, 65536, ARENA_BYTES)  # it boots again
            device.boot()
            said.append("runs" if device.model else "lost")
            continue
        content = unpack(one)
        try:
            device.check(content[:224])
            with open(device.slot_path(device.spare()), "wb") as file:
                file.write(content)
            device.stage(None)
            device = store.Store(folder, key, name, 65536, ARENA_BYTES)  # cut before the trial
            said.append(device.boot() or "ok")
        except bundle.Refused as error:
            said.append(error.code)
    return said


def main():
    with open(sys.argv[2]) as file:
        questions = json.load(file)
    key, name, folder = unpack(questions["key"]), questions["name"], questions["folder"]
    answers = {
        "sha512": [
            binascii.hexlify(SHA512(unpack(one)).digest()).decode() for one in questions["messages"]
        ],
        "verified": [
            ed25519.verify(unpack(one["signature"]), unpack(one["key"]), unpack(one["message"]))
            for one in questions["signatures"]
        ],
        "signed": [
            pack(p256.sign(int(one["key"], 16), unpack(one["message"])))
            for one in questions["to_sign"]
        ],
        "outputs": [run_model(one) for one in questions["models"]],
        "installed": [install(one, folder, key, name) for one in questions["bundles"]],
        "unlucky": [unlucky(one, folder, key, name) for one in questions["unlucky"]],
        "rotten": [rotten(one, two, folder, key, name) for one, two in questions["rotten"]],
    }
    print(json.dumps(answers))


main()
