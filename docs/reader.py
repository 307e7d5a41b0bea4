#!/usr/bin/env python3
"""Reads an esker repository, format 1, from docs/format.md alone: no code is shared with esker.

usage: reader.py REPO SECRET list
       reader.py REPO SECRET inbox
       reader.py REPO SECRET restore SNAPSHOT TARGET
       reader.py REPO SECRET reports
       reader.py report FILE

SECRET is a file whose first line is the password, or key:FILE, or shares:FILE,FILE and so on: a key file, or
words in a file, and as many shares as are needed; or kms:FILE, the secret that a key service unwrapped (section 3.4), in
hex. SNAPSHOT is the beginning of an id, or 'latest'. TARGET gets every file, directory, symbolic link and hard link,
with modes and times (owners only as root). 'inbox' reads and checks what write-only hosts brought and nobody admitted
yet. 'reports' lists the reports of drills and checks their signatures; 'report' checks one that was exported, and needs
neither a repository nor a secret.
Needs: blake3, cryptography, zstandard, argon2-cffi; words.txt beside it for words. Everything read is
authenticated; anything that is not right ends the program with a message, of 'inbox' only after all other runs, of 'reports'
after all other reports.
"""
import hashlib
import hmac
import json
import os
import stat
import struct
import sys

import blake3
import zstandard
from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

MAX_COMMIT = 64 << 20  # longer than any
MAX_REPORT = 64 << 20
DIRECTORY_NONCE = b"\xff" * 8 + bytes(4)


def derive(parent, label, *context):
    """Key derivation: keyed BLAKE3 over the label's length, the label and the context."""
    return blake3.blake3(bytes([len(label)]) + label.encode() + b"".join(context), key=parent).digest()


def committed(parent):
    """A sealing key and its commitment."""
    return derive(parent, "seal"), derive(parent, "commitment")


def nonce(counter):
    return struct.pack("<Q", counter) + bytes(4)


def gf_product(a, b):
    """The product in GF(256), modulo x^8 + x^4 + x^3 + x + 1."""
    result = 0
    while b:
        result, a, b = result ^ (a if b & 1 else 0), (a << 1) ^ (0x11B if a & 0x80 else 0), b >> 1
    return result


def gf_quotient(a, b):
    return next(value for value in range(256) if gf_product(value, b) == a)


def combined(shares):
    """The secret of shares: for each byte, the value at 0 of the polynomial through (number, byte)."""
    secret = bytearray(32)
    for number, value in shares.items():
        weight = 1
        for other in shares:
            if other != number:
                weight = gf_product(weight, gf_quotient(other, other ^ number))
        secret = bytearray(byte ^ gf_product(weight, more) for byte, more in zip(secret, value))
    return bytes(secret)


def checksum(label, data):
    return blake3.blake3(label.encode() + data).digest()


def key_text(path):
    """The label and the payload of a key or a share, as a line or as words."""
    with open(path, encoding="utf-8-sig") as file:
        text = " ".join(line for line in file if not line.lstrip().startswith("#")).lower()
    if text.strip().startswith("esker-"):
        label, digits = "".join(text.split()).split(":", 1)
        label, data = label.upper(), bytes.fromhex(digits.replace(":", ""))
    else:
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "words.txt")) as file:
            numbers = {word: number for number, word in enumerate(file.read().split())}
        words = text.replace(",", " ").replace(";", " ").split()
        words = [numbers[word] for word in words if not word.rstrip(".:)").isdigit()]
        label, data = {36: "ESKER-KEY-1", 48: "ESKER-SHARE-1"}[len(words)], b""
        for at in range(0, len(words), 4):
            bits = 0
            for word in words[at : at + 4]:
                bits = bits << 11 | word
            group = (bits >> 12).to_bytes(4, "big")
            check = checksum(label + " group " + chr(at // 4 + 1), group)
            if struct.unpack("<H", check[:2])[0] & 0xFFF != bits & 0xFFF:
                raise SystemExit("%s: a word of group %d is wrong" % (path, at // 4 + 1))
            data += group
    if label not in ("ESKER-KEY-1", "ESKER-SHARE-1") or len(data) != {"K": 36, "S": 48}[label[6]]:
        raise SystemExit(path + " is no key and no share")
    if checksum(label, data[:-4])[:4] != data[-4:]:
        raise SystemExit(path + " is damaged")
    return label, data[:-4]


class Secret:
    """What opens key slots of one kind."""

    def __init__(self, given):
        if given.startswith("key:"):
            label, self.key = key_text(given[4:])
            self.kind = "key"
            if label != "ESKER-KEY-1":
                raise SystemExit("a share is no key")
        elif given.startswith("shares:"):
            shares = [key_text(path) for path in given[7:].split(",")]
            label, self.kind = "ESKER-SHARE-1", "shares"
            first = shares[0][1]
            if any((found, share[:2], share[3:12]) != (label, first[:2], first[3:12]) for found, share in shares):
                raise SystemExit("these are not shares of one split")
            values = {share[2]: share[12:] for _, share in shares}
            if len(values) < first[0]:
                raise SystemExit("%d of %d shares" % (len(values), first[0]))
            self.split, self.key = first[4:12].hex(), combined(values)
        elif given.startswith("kms:"):
            self.kind = "kms"
            with open(given[4:], encoding="ascii") as file:
                self.key = bytes.fromhex(file.read().strip())
        else:
            self.kind = "passphrase"
            with open(given, "rb") as file:
                self.password = file.readline().rstrip(b"\r\n")

    def of(self, header):
        """The 32 bytes from which the key of a slot is derived; None if it is not for this slot."""
        if header["version"] != 1 or header["kind"] != self.kind:
            return None
        if self.kind == "passphrase":
            cost = header["kdf_params"]
            cost = cost["passes"], cost["memory_kib"], cost["lanes"]
            return hash_secret_raw(self.password, bytes.fromhex(header["salt"]), *cost, 32, Type.ID)
        return self.key if self.kind in ("key", "kms") or header["split"] == self.split else None


KEM, HPKE = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x03"


def extract(suite, salt, label, secret):
    """LabeledExtract of RFC 9180."""
    return hmac.digest(salt, b"HPKE-v1" + suite + label + secret, hashlib.sha256)


def expand(suite, key, label, info, length):
    """LabeledExpand of RFC 9180, of one block."""
    info = struct.pack(">H", length) + b"HPKE-v1" + suite + label + info
    return hmac.digest(key, info + b"\x01", hashlib.sha256)[:length]


def hpke_open(private, encapsulated, psk, psk_id, info, aad, sealed):
    """Opens what was sealed to a private key: RFC 9180, mode PSK, sequence number 0."""
    private = X25519PrivateKey.from_private_bytes(private)
    shared = private.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    shared = extract(KEM, b"", b"eae_prk", shared)
    public = private.public_key().public_bytes_raw()
    shared = expand(KEM, shared, b"shared_secret", encapsulated + public, 32)
    context = b"\x01" + extract(HPKE, b"", b"psk_id_hash", psk_id) + extract(HPKE, b"", b"info_hash", info)
    secret = extract(HPKE, shared, b"secret", psk)
    key, base_nonce = expand(HPKE, secret, b"key", context, 32), expand(HPKE, secret, b"base_nonce", context, 12)
    return ChaCha20Poly1305(key).decrypt(base_nonce, sealed, aad)


def derived_private(secret):
    """The private key of DeriveKeyPair of DHKEM(X25519, HKDF-SHA256)."""
    return expand(KEM, extract(KEM, b"", b"dkp_prk", secret), b"sk", b"", 32)


class Fields:
    """Little-endian fields of a byte string."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def raw(self, length):
        if self.at + length > len(self.data):
            raise ValueError("ends too early")
        self.at += length
        return self.data[self.at - length : self.at]

    def get(self, layout):
        values = struct.unpack("<" + layout, self.raw(struct.calcsize("<" + layout)))
        return values[0] if len(values) == 1 else values

    def var(self):
        return self.raw(self.get("I"))

    def left(self):
        return len(self.data) - self.at


def patched(patch, base, may_copy=lambda place, length: True):
    """Follows the instructions of a patch."""

    def number(at):
        value = shift = 0
        while True:
            value |= (patch[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if patch[at - 1] < 0x80:
                return value, at

    length, at = number(0)
    inserted = end = at + length
    place, parts = 0, []
    while at < end:
        insert, at = number(at)
        copy, at = number(at)
        step, at = number(at)
        place += -(step >> 1) - 1 if step & 1 else step >> 1
        if place < 0 or place + copy > len(base) or inserted + insert > len(patch):
            raise SystemExit("a patch of other bases")
        if copy and not may_copy(place, copy):
            raise SystemExit("a patch that copies what hosts may not")
        parts += [patch[inserted : inserted + insert], base[place : place + copy]]
        inserted, place = inserted + insert, place + copy
    return b"".join(parts)


def in_blocks(bases, place, length):
    """Whether a copy has whole blocks of one base."""
    for base in bases:
        if place < len(base):
            return place % 256 == 0 and length % 256 == 0 and place + length <= len(base)
        place -= len(base)
    return False


class Repository:
    def __init__(self, root, secret):
        self.root = root
        line, mac = self.read("config").decode().rstrip("\n").split("\n")
        self.config = json.loads(line)
        if self.config["esker"] != 1 or set(self.config["required_features"]) - {"head-chain"}:
            raise SystemExit("this repository needs a newer reader")
        self.id = bytes.fromhex(self.config["repository_id"])
        self.sealed_head = self.read(self.head_name())
        self.unlock(secret)
        expected = blake3.blake3(line.encode(), key=derive(self.master, "config")).hexdigest()
        if expected != mac:
            raise SystemExit("config is damaged")
        self.head = json.loads(self.open_object("HEAD", 1, "head", data=self.sealed_head))
        if self.head["required_features"]:
            raise SystemExit("this repository needs a newer reader")
        retired = [int(epoch) for epoch, known in self.head["epochs"].items() if "retired_ms" in known]
        # What is sealed under one of these is an old object, or a forged one.
        self.epochs = {epoch: key for epoch, key in self.epochs.items() if epoch > max(retired, default=0)}
        self.load_index()

    def read(self, name, offset=0, length=-1):
        with open(os.path.join(self.root, name), "rb") as file:
            file.seek(offset)
            return file.read(length)

    def head_name(self):
        """Where HEAD lies: it is sealed as HEAD everywhere."""
        if self.config.get("head") != "chain":
            return "HEAD"
        return "head/" + max(name for name in os.listdir(os.path.join(self.root, "head")) if name.isdigit())

    def unlock(self, secret):
        for name in sorted(os.listdir(os.path.join(self.root, "keys"))):
            line, sealed = self.read("keys/" + name).decode().rstrip("\n").split("\n")
            header, sealed = json.loads(line), bytes.fromhex(sealed)
            kek = secret.of(header)
            if kek is None:
                continue
            key, commitment = committed(derive(kek, "slot", self.id, bytes.fromhex(name)))
            if commitment == sealed[:32]:
                ring = json.loads(AESGCM(key).decrypt(nonce(0), sealed[32:], line.encode()))
                self.master = bytes.fromhex(ring["master"])
                self.epochs = {int(epoch): bytes.fromhex(key) for epoch, key in ring["epochs"].items()}
                self.id_key = derive(self.master, "chunk-id")
                if self.take_grant(bytes.fromhex(name), bytes.fromhex(ring["private"])):
                    return
        raise SystemExit("no key slot is opened by this")

    def take_grant(self, slot, private):
        """Adds the data keys that the slot lacks; false if HEAD's epoch was never granted to it."""
        epoch = struct.unpack("<I", self.sealed_head[8:12])[0]
        if epoch in self.epochs:
            return True
        name = "grants/%d" % epoch
        fields = Fields(self.read(name))
        header = fields.data[:32]
        if fields.raw(8) != b"eskergra" or fields.raw(4) != b"\x01\0\0\0":
            raise SystemExit(name + " is not what its name says")
        if fields.get("I") != epoch or fields.raw(16) != self.id:
            raise SystemExit(name + " is of another epoch or repository")
        granted = {}
        for _ in range(fields.get("I")):
            receiver = fields.raw(32)
            granted[receiver] = fields.raw(32), fields.raw(48)
        if slot not in granted:
            return False
        info = b"esker grant" + self.id + slot + struct.pack("<I", epoch)
        psk = derive(self.master, "grant")
        self.epochs[epoch] = hpke_open(private, granted[slot][0], psk, b"esker grant", info, header, granted[slot][1])
        before = fields.data[: len(fields.data) - fields.left()]
        ring = Fields(self.open_object(name, 6, "ring", data=fields.raw(fields.left())))
        for _ in range(ring.get("I")):
            earlier = ring.get("I")
            self.epochs[earlier] = ring.raw(32)
        if ring.raw(32) != blake3.blake3(before).digest():
            raise SystemExit(name + " is damaged: what it has for other key slots was changed")
        return True

    def open_object(self, name, kind, label, expected_hash=None, data=None, epochs=None):
        """Opens a small sealed object; `epochs` has other keys than the repository's."""
        data = data or self.read(name)
        if expected_hash and blake3.blake3(data).hexdigest() != expected_hash:
            raise SystemExit(name + " is not the object that HEAD names")
        header = Fields(data[:76])
        if header.raw(6) != b"esker\0" or header.get("BB") != (kind, 1):
            raise SystemExit(name + " is not what its name says")
        epoch, salt, commitment = header.get("I"), header.raw(32), header.raw(32)
        epochs = epochs or self.epochs
        if epoch not in epochs:
            raise SystemExit(name + " is sealed under an epoch that was retired, or whose key is lost")
        key, expected = committed(derive(epochs[epoch], label, salt))
        if commitment != expected:
            raise SystemExit(name + ": wrong key commitment")
        return AESGCM(key).decrypt(nonce(0), data[76:], data[:76] + self.id + name.encode())

    def items(self, name):
        """A list of HEAD: what lies in leaves, then what HEAD has itself."""
        found = self.head[name]
        if isinstance(found, list):
            return found
        items = []
        for leaf in found["leaves"]:
            object_name = "sets/%d.%d.%s" % (leaf["incarnation"], leaf["generation"], leaf["id"])
            fields = Fields(self.open_object(object_name, 5, "leaf", leaf["hash"]))
            _, _, _, count = fields.get("BBHI")
            everything = [self.item(name, fields) for _ in range(count)]
            gone = set(leaf.get("gone", []))
            items += [item for place, item in enumerate(everything) if place not in gone]
        return items + found["items"]

    @staticmethod
    def item(name, fields):
        """One item of a leaf."""
        if name == "roots":
            kind = fields.var().decode()
            item = {"type": kind, "id": fields.raw(32).hex(), "hash": fields.raw(32).hex()}
            item["epoch"], renewed = fields.get("IB")
            if renewed:
                item["renewed"] = fields.raw(32).hex()
            fields.var()  # columns
            return item
        if name == "hosts":
            return json.loads(fields.var())
        if name == "segments":
            item = {"id": fields.raw(32).hex(), "hash": fields.raw(32).hex()}
            item["packs"], item["chunks"], item["epoch"] = fields.get("III")
            return item
        return {"session": fields.raw(16).hex(), "id": fields.raw(32).hex()}  # doomed

    def load_index(self):
        """Chunk id -> its locations, the one of least depth first; doomed packs do not count."""
        self.chunks, self.recent = {}, {}
        doomed = {pack["id"] for pack in self.items("doomed")}
        for segment in self.items("segments"):
            fields = Fields(self.open_object("index/" + segment["id"], 2, "segment", segment["hash"]))
            packs = fields.get("I")
            fields.var()
            for _ in range(packs):
                session, pack = fields.raw(16), fields.raw(32)
                kind, method, reserved, epoch, length = fields.get("BBHIQ")
                if method != 1 or reserved:
                    raise SystemExit("pack sealed to a recipient: not readable here")
                count = fields.get("I")
                fields.var()
                for ordinal in range(count):
                    start = fields.at
                    chunk = fields.raw(32)
                    offset, stored, plain, codec, depth, bases, _generation, _anchor = fields.get("IIIBBBBQ")
                    base_ids = [fields.raw(32) for _ in range(bases)]
                    record = fields.data[start : fields.at]
                    if pack.hex() not in doomed:
                        place = (session, pack, kind, epoch, ordinal, record, offset, stored, plain, codec, base_ids)
                        self.chunks.setdefault(chunk, []).append((depth, place))
        for places in self.chunks.values():
            places.sort(key=lambda pair: pair[0])

    def chunk(self, chunk_id, length=None, below=256):
        """Reads one chunk at a depth below `below`: decrypts, decompresses, checks its id."""
        if chunk_id in self.recent:
            return self.recent[chunk_id]
        depth, place = self.chunks.get(chunk_id, [(below, None)])[0]
        if depth >= below:
            raise SystemExit("chunk " + chunk_id.hex() + " is in no index segment, or stands on itself")
        session, pack, kind, epoch, ordinal, record, offset, stored, plain_len, codec, bases = place
        sealed = self.read(f"packs/{session.hex()}/{pack.hex()}", offset, stored)
        key, _ = committed(derive(self.epochs[epoch], "pack", bytes([kind]), pack))
        data = AESGCM(key).decrypt(nonce(ordinal), sealed, self.chunk_aad(session, pack, kind, ordinal, record))
        if codec == 1:
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=plain_len)
        elif codec in (2, 3, 4):
            base = b"".join(self.chunk(base, below=depth) for base in bases)
            prefix = {2: base, 3: b"", 4: base[: 128 << 10]}[codec]
            prefix = zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
            data = zstandard.ZstdDecompressor(dict_data=prefix).decompress(data, max_output_size=plain_len + 64)
            if codec > 2:
                data = patched(data, base)
        elif codec != 0:
            raise SystemExit(f"codec {codec} is not known")
        if len(data) != plain_len or length not in (None, plain_len):
            raise SystemExit("chunk of another length than recorded")
        if blake3.blake3(data, key=self.id_key).digest() != chunk_id:
            raise SystemExit("chunk with another content than its id says")
        while len(self.recent) > 64:
            del self.recent[next(iter(self.recent))]
        self.recent[chunk_id] = data
        return data

    def chunk_aad(self, session, pack, kind, ordinal, record):
        return b"chunk" + b"\x01" + self.id + session + pack + bytes([kind]) + struct.pack("<I", ordinal) + record

    def inbox(self):
        """What hosts brought that nobody admitted: (host, run, the snapshot's record), all of it checked."""
        # Chunks of runs that wait, by id: later runs may build on them.
        self.waiting = {}
        # Runs that are not what a host brings: none of them stops those of another one.
        self.refused = 0
        for host in self.items("hosts") if "hosts" in self.head else []:
            folder = os.path.join(self.root, "inbox", host["id"])
            strays = 0
            for run in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
                # Whoever may write there chooses names and kinds: a pipe would be waited for, and a link leads elsewhere.
                if len(run) != 20 or not (run.isascii() and run.isdigit() and is_kind(folder, run, stat.S_ISDIR)):
                    strays += 1
                elif is_kind(folder, run + "/commit", stat.S_ISREG):
                    try:
                        yield host, int(run), self.brought(host, "inbox/%s/" % host["id"], run)
                    except (Exception, SystemExit) as error:  # whatever its bytes make of this program
                        self.refused += 1
                        print("%s, run %d: %s" % (host["name"], int(run), error or repr(error)), file=sys.stderr)
            if strays:
                print("%s: %d in the inbox that no host brings" % (host["name"], strays), file=sys.stderr)

    def brought(self, host, folder, run):
        """The record of the snapshot that a commit brings; its packs, and every chunk in them, are read."""
        name = folder + run + "/commit"
        data = self.read(name, length=MAX_COMMIT + 1)
        if len(data) > MAX_COMMIT:
            raise SystemExit(name + " is longer than a commit can be")
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(host["public"]))
        try:
            public.verify(data[-64:], b"esker commit 1" + data[:-64])
        except InvalidSignature:
            raise SystemExit(name + ": the host did not sign it")
        fields = Fields(data[:-64])
        if fields.raw(12) != b"eskercom\x01\0\0\0":
            raise SystemExit(name + " is not what its name says")
        epoch = fields.get("I")
        if fields.raw(16) != self.id or fields.raw(32).hex() != host["id"] or fields.get("Q") != int(run):
            raise SystemExit(name + " is of another repository, host or run")
        fields.raw(32)  # the commit before
        keys = {int(run): self.run_key(host, int(run), epoch, fields.raw(80))}
        sealed = fields.var()
        body = Fields(self.open_object(name, 7, "commit", data=sealed, epochs={epoch: keys[int(run)]}))
        for _ in range(body.get("I")):
            earlier, of = body.get("QI")
            keys[earlier] = self.run_key(host, earlier, of, body.raw(80))
        for _ in range(body.get("I")):
            of, session, pack = body.get("Q"), body.raw(16), body.raw(32)
            kind, epoch, length, expected = *body.get("BIQ"), body.raw(32)
            place = "%s%020d/%s" % (folder, of, pack.hex())
            if not is_kind(os.path.join(self.root, folder), place[len(folder) :], stat.S_ISREG):
                raise SystemExit("pack %s is missing" % pack.hex())
            data = self.read(place, length=length + 1)
            if len(data) != length or blake3.blake3(data).digest() != expected:
                raise SystemExit("pack %s is not what the host brought" % pack.hex())
            self.check_pack(data, keys[of], (session, pack, kind, epoch))
        return json.loads(body.var())

    def run_key(self, host, run, epoch, sealed):
        """The key of a run, which is sealed to the inbox of an epoch."""
        private = derived_private(derive(self.epochs[epoch], "inbox"))
        psk = derive(derive(self.master, "host", bytes.fromhex(host["id"])), "inbox")
        info = b"esker inbox" + self.id + bytes.fromhex(host["id"]) + struct.pack("<QI", run, epoch)
        return hpke_open(private, sealed[:32], psk, b"esker inbox", info, b"", sealed[32:])

    def check_pack(self, data, parent, name):
        """Every chunk of a pack is what its id says."""
        session, pack, kind, epoch = name
        key, commitment = committed(derive(parent, "pack", bytes([kind]), pack))
        header = b"eskerpak" + bytes([1, kind, 1, 0]) + struct.pack("<I", epoch) + session + pack + commitment
        start = struct.unpack("<Q", data[-16:-8])[0]
        if data[:96] != header or data[-8:] != b"eskerend":
            raise SystemExit("pack %s is damaged" % pack.hex())
        aad = b"directory\x01" + self.id + header + struct.pack("<QQ", len(data), start)
        fields = Fields(AESGCM(key).decrypt(DIRECTORY_NONCE, data[start:-16], aad))
        count = fields.get("I")
        fields.var()
        for ordinal in range(count):
            at = fields.at
            chunk = fields.raw(32)
            offset, stored, plain, codec, _depth, bases, _generation, _anchor = fields.get("IIIBBBBQ")
            bases = [fields.raw(32) for _ in range(bases)]
            if codec not in (0, 1, 3):
                raise SystemExit("chunk %s has a codec that hosts do not use" % chunk.hex())
            aad = self.chunk_aad(session, pack, kind, ordinal, fields.data[at : fields.at])
            found = AESGCM(key).decrypt(nonce(ordinal), data[offset : offset + stored], aad)
            if codec == 1:
                found = zstandard.ZstdDecompressor().decompress(found, max_output_size=plain)
            elif codec == 3:
                found = zstandard.ZstdDecompressor().decompress(found, max_output_size=plain // 2)
                bases = [self.waiting.get(base) or self.chunk(base) for base in bases]
                found = patched(found, b"".join(bases), lambda place, length: in_blocks(bases, place, length))
            if len(found) != plain or blake3.blake3(found, key=self.id_key).digest() != chunk:
                raise SystemExit("chunk %s is not what its id says" % chunk.hex())
            self.waiting[chunk] = found

    def snapshots(self):
        """All snapshots, oldest first."""
        found = []
        for root in self.items("roots"):
            if root["type"] == "snapshot":
                name = "snapshots/" + root["id"] + ("." + root["renewed"] if "renewed" in root else "")
                record = json.loads(self.open_object(name, 3, "snapshot", root["hash"]))
                found.append((root["id"], record))
        return sorted(found, key=lambda pair: pair[1]["time"])

    def reports(self):
        """The texts of all reports of drills: (id, text)."""
        for root in self.items("roots"):
            if root["type"] == "drill-report":
                name = "reports/" + root["id"] + ("." + root["renewed"] if "renewed" in root else "")
                yield root["id"], self.open_object(name, 9, "drill-report", root["hash"])

    def records(self, manifest):
        """The manifest's records: (tag, fields)."""
        level, refs = manifest["level"], [(bytes.fromhex(chunk), length) for chunk, length in manifest["chunks"]]
        while level > 0:
            lists = (Fields(self.chunk(*ref)) for ref in refs)
            refs = [(fields.raw(32), fields.get("I")) for fields in lists for _ in range(fields.left() // 36)]
            level -= 1
        for ref in refs:
            fields = Fields(self.chunk(*ref))
            while fields.left():
                tag = fields.get("B")
                yield tag, Fields(fields.var())


def signed_report(text, repository=None):
    """The report in a signed document, and its signer; a text that somebody changed ends the program."""
    try:
        document = json.loads(text)
        fields = [document[name] for name in ("schema", "repository", "signer", "signature", "report")]
        again = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        schema, of, signer, signature, report = fields
        of, public = bytes.fromhex(of), Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer))
        signature, message = bytes.fromhex(signature), b"esker drill report 1" + of + report.encode()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SystemExit("this is no signed report")
    if schema != "esker-signed-report-1" or list(document) != ["schema", "repository", "signer", "signature", "report"]:
        raise SystemExit("this is no signed report of version 1")
    if again != text or fields[1:4] != [of.hex(), signer.lower(), signature.hex()] or len(of) != 16:
        raise SystemExit("somebody wrote this report again: it is not the text that was stored")
    if repository not in (None, of):
        raise SystemExit("this report is of another repository, " + of.hex())
    try:
        public.verify(signature, message)
    except InvalidSignature:
        raise SystemExit("the signature does not fit: the report was changed after it was signed")
    return json.loads(report), signer


def described(report, signer):
    """A report in one line."""
    outcome = "FAILED" if report["failures"] else "passed"
    return " ".join((report["time"], report["source"] or "-", report["system"] or "-", outcome, "signer", signer))


def is_kind(folder, name, kind):
    """Whether a name below a folder is of this kind, and no part of it is a link."""
    try:
        for part in name.split("/"):
            mode, folder = os.lstat(os.path.join(folder, part)).st_mode, os.path.join(folder, part)
            if stat.S_ISLNK(mode):
                return False
        return kind(mode)
    except OSError:
        return False


def entry(fields):
    """One entry of a manifest."""
    item = dict(zip(("kind", "mode", "uid", "gid"), fields.get("BIII")))
    item["mtime"], item["ctime"] = fields.get("qI"), fields.get("qI")
    item.update(zip(("size", "device", "inode", "links", "rdev"), fields.get("QQQQQ")))
    for name in ("path", "user", "group", "target"):
        item[name] = fields.var()
    item["xattrs"] = [(fields.var(), fields.var()) for _ in range(fields.get("I"))]
    parts = item["path"].split(b"/")
    if any(part in (b"", b".", b"..") for part in parts) or b"\0" in item["path"]:
        raise SystemExit("a path that leaves the target")
    return item


def finish(path, item):
    """Owner, mode, attributes and times of a restored path."""
    link = item["kind"] == 3
    if os.geteuid() == 0:
        os.chown(path, item["uid"], item["gid"], follow_symlinks=False)
    if not link:
        os.chmod(path, item["mode"])
        for name, value in item["xattrs"]:
            os.setxattr(path, name, value)
    when = item["mtime"][0] * 10**9 + item["mtime"][1]
    os.utime(path, ns=(when, when), follow_symlinks=False)


def restore(repository, manifest, target):
    target = os.fsencode(target)
    os.makedirs(target, exist_ok=True)
    folders, links, item, out, path = [], {}, None, None, None
    for tag, fields in repository.records(manifest):
        if tag == 1:
            item = entry(fields)
            path = os.path.join(target, item["path"])
            os.makedirs(os.path.dirname(path), exist_ok=True)
            inode = (item["device"], item["inode"])
            if item["kind"] == 2:
                os.makedirs(path, exist_ok=True)
                folders.append((path, item))
            elif item["kind"] == 3:
                os.symlink(item["target"], path)
                finish(path, item)
            elif item["kind"] == 1 and item["links"] > 1 and inode in links:
                os.link(links[inode], path)
            elif item["kind"] == 1:
                out = open(path, "xb")
            elif item["kind"] in (4, 5, 6):
                kind = {4: stat.S_IFIFO, 5: stat.S_IFCHR, 6: stat.S_IFBLK}[item["kind"]]
                os.mknod(path, kind | item["mode"], item["rdev"])
                finish(path, item)
        elif tag == 2 and out:
            while fields.left():
                out.write(repository.chunk(fields.raw(32), fields.get("I")))
        elif tag == 3 and out:
            out.seek(fields.get("Q"), 1)
        elif tag == 4:
            dropped, size = fields.get("BQ")
            if out:
                if out.tell() != size and not dropped:
                    raise SystemExit(os.fsdecode(path) + " has another size than recorded")
                out.truncate()
                out.close()
                out = None
                if dropped:
                    os.unlink(path)
                else:
                    finish(path, item)
                    if item["links"] > 1:
                        links[(item["device"], item["inode"])] = path
        elif tag not in (2, 3):
            raise SystemExit(f"record {tag} is not known")
    for path, item in reversed(folders):
        finish(path, item)


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "report":
        with open(sys.argv[2], "rb") as file:
            text = file.read(MAX_REPORT + 1)
        if len(text) > MAX_REPORT:
            raise SystemExit("this is longer than a report can be")
        print(described(*signed_report(text)))
        return
    if len(sys.argv) not in (4, 6):
        raise SystemExit(__doc__)
    repository = Repository(sys.argv[1], Secret(sys.argv[2]))
    snapshots = repository.snapshots()
    if sys.argv[3] == "list":
        for name, record in snapshots:
            print(name, record["time"], record["hostname"], *record["paths"])
    elif sys.argv[3] == "inbox":
        for host, run, record in repository.inbox():
            print(host["name"], run, record["time"], record["hostname"], *record["paths"])
        if repository.refused:
            raise SystemExit("%d of the runs are not what a host brings" % repository.refused)
    elif sys.argv[3] == "reports":
        refused = 0
        for name, text in repository.reports():
            try:
                print(name, described(*signed_report(text, repository.id)))
            except SystemExit as error:
                refused += 1
                print("%s: %s" % (name, error), file=sys.stderr)
        if refused:
            raise SystemExit("%d of the reports are not as they were signed" % refused)
    elif sys.argv[3] == "restore" and len(sys.argv) == 6:
        wanted = sys.argv[4]
        chosen = [pair for pair in snapshots if pair[0].startswith(wanted)]
        if wanted == "latest":
            chosen = snapshots[-1:]
        if len(chosen) != 1:
            raise SystemExit(f"{len(chosen)} snapshots match {wanted}")
        restore(repository, chosen[0][1]["manifest"], sys.argv[5])
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
