"""A Qdrant server for tests, as far as its REST interface (docs/redoc/master/openapi.json in its repository) is needed:
collections of one shard each, points, aliases, and snapshots of shards. The shards are real: Qdrant's own engine
(qdrant-edge-py) writes, reads and queries them, and unpacks and loads what is uploaded.

Usage: qdrant.py PORT FOLDER [API-KEY]. A file FOLDER/full makes snapshots fail, FOLDER/flip changes a byte on its way,
FOLDER/cut breaks a download off in the middle.
"""

import hashlib
import json
import pathlib
import shutil
import sys
import tarfile
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import qdrant_edge as edge

PORT, FOLDER = int(sys.argv[1]), pathlib.Path(sys.argv[2])
KEY = sys.argv[3] if len(sys.argv) > 3 else None
DISTANCES = {"Cosine": edge.Distance.Cosine, "Dot": edge.Distance.Dot, "Euclid": edge.Distance.Euclid}
LOCK = threading.Lock()
collections, aliases = {}, {}


class Refused(Exception):
    def __init__(self, status, why):
        super().__init__(why)
        self.status = status


class Collection:
    """One shard, and what was said about it."""

    def __init__(self, name, wanted):
        self.name, self.wanted = name, wanted
        self.folder = FOLDER / "collections" / name
        vectors = wanted["vectors"]
        self.config = edge.EdgeConfig(vectors=edge.EdgeVectorParams(vectors["size"], DISTANCES[vectors["distance"]]))
        self.snapshots = {}
        self.folder.mkdir(parents=True)
        self.shard = edge.EdgeShard.create(str(self.folder / "0"), self.config)

    def info(self):
        params = {key: value for key, value in self.wanted.items() if not key.endswith("_config")}
        hnsw = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}
        optimizer = {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0,
                     "flush_interval_sec": 5}
        return {"status": "green", "optimizer_status": "ok", "segments_count": 1, "points_count": self.count(),
                "config": {"params": {"shard_number": 1, **params},
                           "hnsw_config": {**hnsw, **(self.wanted.get("hnsw_config") or {})},
                           "optimizer_config": {**optimizer, **(self.wanted.get("optimizers_config") or {})},
                           "wal_config": self.wanted.get("wal_config") or {"wal_capacity_mb": 32, "wal_segments_ahead": 0}},
                "payload_schema": {}}

    def count(self):
        return self.shard.count(edge.CountRequest())

    def upsert(self, points):
        self.shard.update(edge.UpdateOperation.upsert_points(
            [edge.Point(point["id"], point["vector"], point.get("payload")) for point in points]))

    def query(self, wanted):
        vector = wanted["query"]["nearest"] if isinstance(wanted["query"], dict) else wanted["query"]
        query = edge.Query.Nearest(vector)
        found = self.shard.query(edge.QueryRequest(limit=wanted.get("limit", 10), query=query, with_payload=True))
        return [{"id": point.id, "version": 0, "score": point.score, "payload": point.payload} for point in found]

    def scroll(self, wanted):
        records, offset = self.shard.scroll(edge.ScrollRequest(
            offset=wanted.get("offset"), limit=wanted.get("limit", 10), with_payload=True, with_vector=True))
        points = [{"id": record.id, "payload": record.payload, "vector": record.vector} for record in records]
        return {"points": points, "next_page_offset": offset}

    def snapshot(self):
        if (FOLDER / "full").exists():
            raise Refused(500, "Service internal error: No space left on device (os error 28)")
        self.shard.flush()
        name = f"{self.name}-shard-0-{time.strftime('%Y-%m-%d-%H-%M-%S')}-{time.monotonic_ns()}.snapshot"
        path = self.folder / name
        with tarfile.open(path, "w") as archive:
            for entry in sorted((self.folder / "0").iterdir()):
                archive.add(entry, entry.name)
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        self.snapshots[name] = {"name": name, "creation_time": time.strftime("%Y-%m-%dT%H:%M:%S"),
                                "size": path.stat().st_size, "checksum": checksum}
        return self.snapshots[name]

    def recover(self, path):
        """Takes over the data of a tar."""
        self.shard.close()
        shutil.rmtree(self.folder / "0")
        edge.EdgeShard.unpack_snapshot(str(path), str(self.folder / "0"))
        self.shard = edge.EdgeShard.load(str(self.folder / "0"))

    def remove(self):
        self.shard.close()
        shutil.rmtree(self.folder)


def of(name):
    name = aliases.get(name, name)
    if name not in collections:
        raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
    return collections[name]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        length = int(self.headers.get("Content-Length") or 0)
        return json.loads(self.rfile.read(length) or b"{}")

    def handle_any(self):
        url = urllib.parse.urlsplit(self.path)
        path = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/") if part]
        query = dict(urllib.parse.parse_qsl(url.query))
        try:
            if KEY and self.headers.get("api-key") != KEY:
                self.close_connection = True
                raise Refused(401, "Must provide an API key or an Authorization bearer token")
            with LOCK:
                result = self.route(path, query)
            if result is not None:
                self.answer(200, result)
        except Refused as refused:
            self.close_connection = True
            self.answer(refused.status, {"status": {"error": str(refused)}, "time": 0.0})

    do_GET = do_PUT = do_POST = do_DELETE = handle_any

    def route(self, path, query):
        done = lambda value: {"result": value, "status": "ok", "time": 0.001}
        match self.command, path:
            case "GET", []:
                return {"title": "qdrant - vector search engine", "version": "1.19.0"}
            case "GET", ["collections"]:
                return done({"collections": [{"name": name} for name in collections]})
            case "GET", ["aliases"]:
                listed = [{"alias_name": alias, "collection_name": name} for alias, name in aliases.items()]
                return done({"aliases": listed})
            case "POST", ["collections", "aliases"]:
                for action in self.body()["actions"]:
                    wanted = action["create_alias"]
                    aliases[wanted["alias_name"]] = of(wanted["collection_name"]).name
                return done(True)
            case "PUT", ["collections", name]:
                if name in collections:
                    raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
                collections[name] = Collection(name, self.body())
                return done(True)
            case "GET", ["collections", name]:
                return done(of(name).info())
            case "GET", ["collections", name, "exists"]:
                return done({"exists": name in collections})
            case "GET", ["collections", name, "cluster"]:
                local = [{"shard_id": 0, "points_count": of(name).count(), "state": "Active"}]
                return done({"peer_id": 1, "shard_count": 1, "local_shards": local, "remote_shards": [],
                             "shard_transfers": []})
            case "DELETE", ["collections", name]:
                of(name).remove()
                del collections[of(name).name]
                return done(True)
            case "PUT", ["collections", name, "points"]:
                of(name).upsert(self.body()["points"])
                return done({"operation_id": 0, "status": "completed"})
            case "POST", ["collections", name, "points", "query"]:
                return done({"points": of(name).query(self.body())})
            case "POST", ["collections", name, "points", "scroll"]:
                return done(of(name).scroll(self.body()))
            case "POST", ["collections", name, "points", "count"]:
                self.body()
                return done({"count": of(name).count()})
            case "POST", ["collections", name, "shards", "0", "snapshots"]:
                return done(of(name).snapshot())
            case "GET", ["collections", name, "shards", "0", "snapshots"]:
                return done(list(of(name).snapshots.values()))
            case "POST", ["collections", name, "shards", "0", "snapshots", "upload"]:
                self.upload(of(name), query)
                return done(True)
            case "GET", ["collections", name, "shards", "0", "snapshots", snapshot]:
                return self.download(of(name), snapshot)
            case "DELETE", ["collections", name, "shards", "0", "snapshots", snapshot]:
                if of(name).snapshots.pop(snapshot, None) is None:
                    raise Refused(404, f"Not found: Snapshot {snapshot}")
                (of(name).folder / snapshot).unlink()
                return done(True)
        raise Refused(404, f"{self.command} {self.path}")

    def download(self, collection, snapshot):
        if snapshot not in collection.snapshots:
            raise Refused(404, f"Not found: Snapshot {snapshot}")
        path = collection.folder / snapshot
        self.send_response(200)
        self.send_header("Content-Type", "application/x-tar")
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()
        with path.open("rb") as file:
            if (FOLDER / "cut").exists():
                self.wfile.write(file.read(path.stat().st_size // 2))
                self.close_connection = True
                return
            if (FOLDER / "flip").exists():
                first = bytearray(file.read(100_000))
                first[-1] ^= 1
                self.wfile.write(first)
            shutil.copyfileobj(file, self.wfile, 1 << 20)

    def upload(self, collection, query):
        left = int(self.headers["Content-Length"])
        boundary = self.headers["Content-Type"].split("boundary=")[1].strip('"').encode()
        path = collection.folder / "upload"
        # One part: its head up to an empty line, its content, the closing boundary.
        while (line := self.rfile.readline()) != b"\r\n":
            left -= len(line)
        left -= 2 + len(b"\r\n--" + boundary + b"--\r\n")
        hashed = hashlib.sha256()
        with path.open("wb") as file:
            while left > 0:
                part = self.rfile.read(min(left, 1 << 20))
                hashed.update(part)
                file.write(part)
                left -= len(part)
        self.rfile.read(len(b"\r\n--" + boundary + b"--\r\n"))
        if query.get("checksum") not in (None, hashed.hexdigest()):
            raise Refused(400, "Wrong input: Snapshot checksum mismatch")
        if query.get("priority") not in (None, "snapshot", "replica", "no_sync"):
            raise Refused(400, "Wrong input: unknown priority")
        collection.recover(path)
        path.unlink()


FOLDER.mkdir(parents=True, exist_ok=True)
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
