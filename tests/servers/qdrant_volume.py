"""Storage folders of a Qdrant for tests. The shards are real: Qdrant's own engine (qdrant-edge-py) writes them, holds them as
a server does, and reads them; what a server writes around them (raft_state.json, aliases, configurations) is laid out
as github.com/qdrant/qdrant does it.

Usage: qdrant_volume.py FOLDER COMMAND…
  make COLLECTION POINTS [SHARDS] [ALIAS]   adds a collection
  upsert COLLECTION STEP                    writes every STEPth point anew
  points COLLECTION                         prints all points, with vectors and payload, as JSON
  serve READY                               holds every shard, makes the file READY, until SIGTERM
"""

import json
import os
import pathlib
import random
import signal
import sys

import qdrant_edge as edge

ROOT, COMMAND, WORDS = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
PEER, SIZE = 7, 128


def shards(name):
    folders = [entry for entry in (ROOT / "collections" / name).iterdir() if entry.name.isdigit()]
    return sorted(folders, key=lambda entry: int(entry.name))


def points(ids, seed):
    for number in ids:
        rng = random.Random(number * 1_000_003 + seed)
        yield edge.Point(number, [rng.random() for _ in range(SIZE)], {"n": number, "text": f"point {number} of {seed}"})


def write(shard, ids, seed):
    ids = list(ids)
    for start in range(0, len(ids), 1000):
        shard.update(edge.UpdateOperation.upsert_points(list(points(ids[start:start + 1000], seed))))
    shard.flush()
    shard.close()


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, separators=(",", ":")))


def make(name, count, number="1", alias=None):
    count, number, folder = int(count), int(number), ROOT / "collections" / name
    put(ROOT / "raft_state.json", {"state": {"hard_state": {"term": 0, "vote": 0, "commit": 0}}, "this_peer_id": PEER,
                                   "peer_address_by_id": {}, "peer_metadata_by_id": {}})
    aliases = ROOT / "aliases" / "data.json"
    known = json.loads(aliases.read_text()) if aliases.exists() else {}
    put(aliases, {**known, **({alias: name} if alias else {})})
    config = edge.EdgeConfig(vectors=edge.EdgeVectorParams(SIZE, edge.Distance.Cosine))
    for shard in range(number):
        own = folder / str(shard)
        own.mkdir(parents=True)
        write(edge.EdgeShard.create(str(own), config), range(shard, count, number), 0)
        put(own / "replica_state.json", {"is_local": True, "this_peer_id": PEER, "peers": {str(PEER): "Active"}})
        put(own / "shard_config.json", {"type": "ReplicaSet"})
        put(own / "newest_clocks.json", {"clocks": []})
    put(folder / "payload_index.json", {"schema": {}})
    put(folder / "config.json", {"params": {"vectors": {"size": SIZE, "distance": "Cosine"}, "shard_number": number}})
    (folder / "version.info").write_text("0.4.2")


def upsert(name, step):
    for folder in shards(name):
        number, count = int(folder.name), len(shards(name))
        shard = edge.EdgeShard.load(str(folder))
        total = shard.count(edge.CountRequest())
        write(shard, range(number, total * count, count * int(step)), 1)


def read(name):
    found = []
    for folder in shards(name):
        shard = edge.EdgeShard.load(str(folder))
        offset = None
        while True:
            records, offset = shard.scroll(edge.ScrollRequest(offset=offset, limit=5000, with_payload=True, with_vector=True))
            found += [[record.id, record.payload, record.vector] for record in records]
            if offset is None:
                break
        shard.close()
    print(json.dumps(sorted(found, key=lambda point: point[0])))


def serve(ready):
    # Before the engine starts its threads, which take the mask over.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    held = [edge.EdgeShard.load(str(shard)) for folder in (ROOT / "collections").iterdir() for shard in shards(folder.name)]
    pathlib.Path(ready).write_text(str(os.getpid()))
    signal.sigwait([signal.SIGTERM])
    for shard in held:
        shard.close()


{"make": make, "upsert": upsert, "points": read, "serve": serve}[COMMAND](*WORDS)
