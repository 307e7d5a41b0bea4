"""A Qdrant server, or a cluster of them, for tests: as far as its REST interface (docs/redoc/master/openapi.json in its
repository) and the observed answers of version 1.18 are needed. The shards are real: Qdrant's own engine (qdrant-edge-py)
writes, reads and queries them, and loads what is uploaded.

Usage: qdrant.py PORT[,PORT…] FOLDER [KEY]. Several ports are the nodes of one cluster; a single one that ends with `+` is a
cluster of one. KEY-ro is a key that may only read. Files in FOLDER make faults:
  full      snapshots fail for want of room            flip   a snapshot that is downloaded changes on its way
  cut       a snapshot breaks off in the middle        short  a streamed snapshot ends in the middle, as if it were whole
  dropped   it ends behind its first segment, as a tar does that the server gave up
  nostream  snapshots cannot be streamed               gone   holds the name of a collection that goes when it is read
  slow      bodies take a second, or as many as it says, for each MiB      refuse uploads are refused when half of them has come
  dead      holds `COLLECTION SHARD PORT STATE` lines: states of replicas
  late      a snapshot on disk takes three seconds
  late_create  holds for how many seconds the answer about a new collection is missing
  version   holds the version that is told             log    (written) one line for each request
  tls.pem   certificate and key: the server speaks TLS   elsewhere  holds a URL that every request is sent to
"""

import hashlib
import io
import json
import pathlib
import shutil
import ssl
import sys
import tarfile
import tempfile
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import qdrant_edge as edge

PORTS = [int(port) for port in sys.argv[1].rstrip("+").split(",")]
CLUSTER = len(PORTS) > 1 or sys.argv[1].endswith("+")
FOLDER = pathlib.Path(sys.argv[2])
KEY = sys.argv[3] if len(sys.argv) > 3 else None
# Peers have large random numbers; here the port makes them, so that no two servers have the same.
PEERS = {port: 7_000_000_000_000_000 + port for port in PORTS}
APP_VERSION = None
DISTANCES = {"Cosine": edge.Distance.Cosine, "Dot": edge.Distance.Dot, "Euclid": edge.Distance.Euclid}
TYPES = {"keyword": "Keyword", "integer": "Integer", "float": "Float", "geo": "Geo", "text": "Text", "bool": "Bool",
         "datetime": "Datetime", "uuid": "Uuid"}
LOCK = threading.RLock()
collections, aliases = {}, {}


class Refused(Exception):
    def __init__(self, status, why, plain=False):
        super().__init__(why)
        self.status, self.plain = status, plain


def fault(name):
    path = FOLDER / name
    return path.read_text() if path.exists() else None


def slow():
    if (seconds := fault("slow")) is not None:
        time.sleep(float(seconds or 1))


def version_of(text):
    return [int(part) for part in text.strip().split(".")]


class Replica:
    """The data of a shard on one node."""

    def __init__(self, collection, shard, port):
        self.collection, self.port, self.broken = collection, port, False
        self.folder = collection.folder / str(port) / str(shard)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.shard = edge.EdgeShard.create(str(self.folder), collection.edge_config())
        for field in collection.schema:
            self.index(field)
        self.snapshots = {}

    def open(self):
        if self.broken:
            raise Refused(500, "Service internal error: Failed to restore local replica")
        return self.shard

    def index(self, field):
        self.open().update(edge.UpdateOperation.create_field_index(
            field, getattr(edge.PayloadSchemaType, TYPES[self.collection.schema[field]["data_type"]])))

    def write_tar(self, file, nested):
        """As the server lays it down: a segment is a tar of its own, or, streamed, its files; and what belongs to the shard."""
        self.open().flush()

        def add(archive, name, data):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

        with tarfile.open(fileobj=file, mode="w") as archive:
            for segment in sorted((self.folder / "segments").iterdir()):
                files = [path for path in sorted(segment.rglob("*")) if path.is_file()]
                if nested:
                    inner = io.BytesIO()
                    with tarfile.open(fileobj=inner, mode="w") as part:
                        for path in files:
                            part.add(path, f"snapshot/files/{path.relative_to(segment)}")
                    add(archive, f"segments/{segment.name}.tar", inner.getvalue())
                else:
                    for path in files:
                        archive.add(path, f"segments/{segment.name}/snapshot/files/{path.relative_to(segment)}")
                    if fault("dropped") is not None:
                        return
            # 32 MB of zeros there; here as many as make a hole.
            add(archive, "wal/open-1", bytes(1 << 20))
            add(archive, "newest_clocks.json", b'{"clocks":[]}')
            add(archive, "replica_state.json", json.dumps({"is_local": True, "this_peer_id": PEERS[self.port]}).encode())
            add(archive, "shard_config.json", b'{"type":"ReplicaSet"}')

    def snapshot(self):
        if fault("full") is not None:
            raise Refused(500, "Service internal error: No space left on device (os error 28)")
        name = f"{self.collection.name}-shard-{self.folder.name}-{time.strftime('%Y-%m-%d-%H-%M-%S', time.gmtime())}-{time.monotonic_ns()}.snapshot"
        path = self.folder.parent / name
        with path.open("wb") as file:
            self.write_tar(file, nested=True)
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        self.snapshots[name] = {"name": name, "creation_time": time.strftime("%Y-%m-%dT%H:%M:%S"),
                                "size": path.stat().st_size, "checksum": checksum}
        return self.snapshots[name]

    def recover(self, path):
        """Takes over the data of a tar; what was here is gone whatever comes of it, as in the server."""
        if not self.broken:
            self.shard.close()
        self.broken = True
        shutil.rmtree(self.folder)
        (self.folder / "segments").mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as unpacked:
            root = pathlib.Path(unpacked)
            try:
                with tarfile.open(path) as archive:
                    archive.extractall(root, filter="data")
            except (tarfile.TarError, OSError, EOFError) as error:
                raise Refused(400, f"Bad request: Failed to unpack snapshot: {error}") from None
            for segment in sorted((root / "segments").iterdir()):
                if segment.suffix == ".tar":
                    with tarfile.open(segment) as archive:
                        archive.extractall(root / "inner" / segment.stem, filter="data")
                    segment = root / "inner" / segment.stem
                files = segment / "snapshot/files"
                newer = (files / "version.info").read_text()
                if version_of(newer) > version_of(APP_VERSION):
                    raise Refused(500, "Service internal error: 1 of 1 read operations failed: Data version "
                                       f"{newer} is newer than application version {APP_VERSION}")
                shutil.move(files, self.folder / "segments" / segment.name)
        self.shard = edge.EdgeShard.load(str(self.folder), self.collection.edge_config())
        self.broken = False

    def close(self):
        if not self.broken:
            self.shard.close()


class Shard:
    """A shard and its replicas, by port."""

    def __init__(self, collection, number, key):
        self.number, self.key = number, key
        copies = min(collection.params.get("replication_factor") or 1, len(PORTS))
        ports = [PORTS[(number + step) % len(PORTS)] for step in range(copies)]
        self.replicas = {port: Replica(collection, number, port) for port in ports}

    def any(self):
        return next(iter(self.replicas.values()))


class Collection:
    def __init__(self, name, wanted):
        self.name, self.folder = name, FOLDER / "collections" / name.encode().hex()
        self.vectors = wanted["vectors"]
        configs = ("hnsw_config", "optimizers_config", "wal_config", "quantization_config", "strict_mode_config", "metadata")
        self.params = {key: value for key, value in wanted.items()
                       if key not in configs and not key.startswith("read_fan_out") and value is not None}
        self.given = {key: wanted.get(key) or {} for key in configs}
        self.schema, self.shards, self.grey = {}, {}, False
        custom = wanted.get("sharding_method") == "custom"
        self.params.setdefault("shard_number", 1 if custom else len(PORTS))
        if not custom:
            for number in range(self.params["shard_number"]):
                self.shards[number] = Shard(self, number, None)

    def edge_config(self):
        make = lambda vector: edge.EdgeVectorParams(vector["size"], DISTANCES[vector["distance"]])
        if "size" in self.vectors:
            return edge.EdgeConfig(vectors=make(self.vectors), wal_enabled=False)
        return edge.EdgeConfig(vectors={name: make(vector) for name, vector in self.vectors.items()}, wal_enabled=False)

    def info(self):
        shards = [shard.any().open().info() for shard in self.shards.values()]
        hnsw = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}
        optimizer = {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0,
                     "flush_interval_sec": 5}
        config = {"params": self.params, "hnsw_config": {**hnsw, **self.given["hnsw_config"]},
                  "optimizer_config": {**optimizer, **self.given["optimizers_config"]},
                  "wal_config": self.given["wal_config"] or {"wal_capacity_mb": 32, "wal_segments_ahead": 0}}
        for key in ("quantization_config", "strict_mode_config", "metadata"):
            if self.given[key]:
                config[key] = self.given[key]
        # What segments say: an index that only they have is shown, too, though the collection knows nothing of it.
        kinds = {getattr(edge.PayloadSchemaType, kind): name for name, kind in TYPES.items()}
        schema = {}
        for shard in shards:
            for field, found in shard.payload_schema.items():
                points = schema.get(field, {}).get("points", 0) + found.points
                schema[field] = {"data_type": kinds[found.data_type], "points": points, **self.schema.get(field, {})}
        return {"status": "grey" if self.grey else "green", "optimizer_status": "ok", "segments_count": len(shards),
                "points_count": sum(shard.points_count for shard in shards), "config": config, "payload_schema": schema}

    def cluster(self, port):
        states = {}
        for line in (fault("dead") or "").splitlines():
            name, number, where, state = line.rsplit(" ", 3)
            if name == self.name:
                states[(int(number), int(where))] = state
        local, remote = [], []
        for number, shard in self.shards.items():
            for where, replica in shard.replicas.items():
                found = {"shard_id": number, "state": states.get((number, where), "Active")}
                if shard.key is not None:
                    found["shard_key"] = shard.key
                if where == port:
                    count = 0 if replica.broken else replica.shard.count(edge.CountRequest())
                    local.append({**found, "points_count": count})
                else:
                    remote.append({**found, "peer_id": PEERS[where]})
        return {"peer_id": PEERS[port], "shard_count": len(self.shards), "local_shards": local, "remote_shards": remote,
                "shard_transfers": []}

    def add_key(self, wanted):
        if not CLUSTER:
            raise Refused(400, "Bad request: Distributed mode disabled")
        if self.params.get("sharding_method") != "custom":
            raise Refused(400, f"Bad request: Shard Key {wanted['shard_key']} cannot be created with Auto sharding method")
        if any(shard.key == wanted["shard_key"] for shard in self.shards.values()):
            raise Refused(400, f"Bad request: Sharding key {wanted['shard_key']} already exists")
        for _ in range(wanted.get("shards_number") or self.params["shard_number"]):
            number = max(self.shards, default=0) + 1
            self.shards[number] = Shard(self, number, wanted["shard_key"])

    def drop_key(self, key):
        for number in [number for number, shard in self.shards.items() if shard.key == key]:
            for replica in self.shards.pop(number).replicas.values():
                replica.close()
                shutil.rmtree(replica.folder)

    def of_key(self, wanted):
        key = wanted.get("shard_key")
        keys = key if isinstance(key, list) else [key]
        return [shard for _, shard in sorted(self.shards.items()) if key is None or shard.key in keys]

    def upsert(self, wanted):
        self.grey = False
        shards = self.of_key(wanted)
        if not shards:
            raise Refused(400, "Bad request: Shard key not specified")
        parts = {}
        for point in wanted["points"]:
            digest = hashlib.blake2b(str(point["id"]).encode(), digest_size=4).digest()
            parts.setdefault(int.from_bytes(digest) % len(shards), []).append(
                edge.Point(point["id"], point["vector"], point.get("payload")))
        for number, points in parts.items():
            for replica in shards[number].replicas.values():
                replica.open().update(edge.UpdateOperation.upsert_points(points))

    def filter(self, wanted):
        if not wanted.get("filter"):
            return None
        conditions = []
        for condition in wanted["filter"]["must"]:
            strict = self.given["strict_mode_config"]
            if strict.get("enabled") and strict.get("unindexed_filtering_retrieve") is False and condition["key"] not in self.schema:
                raise Refused(400, f'Bad request: Index required but not found for "{condition["key"]}" of one of the '
                                   "following types: [keyword]. Help: Create an index for this key or use a different filter.")
            conditions.append(edge.FieldCondition(condition["key"], match=edge.MatchValue(condition["match"]["value"])))
        return edge.Filter(must=conditions)

    def query(self, wanted):
        vector = wanted["query"]["nearest"] if isinstance(wanted["query"], dict) else wanted["query"]
        limit = wanted.get("limit", 10)
        request = edge.QueryRequest(limit=limit, query=edge.Query.Nearest(vector, using=wanted.get("using")) if wanted.get("using")
                                    else edge.Query.Nearest(vector), filter=self.filter(wanted), with_payload=True)
        found = [point for shard in self.of_key(wanted) for point in shard.any().open().query(request)]
        found.sort(key=lambda point: (-point.score, str(point.id)))
        return [{"id": point.id, "version": 0, "score": point.score, "payload": point.payload} for point in found[:limit]]

    def scroll(self, wanted):
        limit, records = wanted.get("limit", 10), []
        for shard in self.of_key(wanted):
            found, _ = shard.any().open().scroll(edge.ScrollRequest(
                offset=wanted.get("offset"), limit=limit + 1, filter=self.filter(wanted), with_payload=True, with_vector=True))
            records += found
        records.sort(key=lambda record: (isinstance(record.id, str), str(record.id) if isinstance(record.id, str) else record.id))
        offset = records[limit].id if len(records) > limit else None
        points = [{"id": record.id, "payload": record.payload, "vector": record.vector} for record in records[:limit]]
        return {"points": points, "next_page_offset": offset}

    def count(self, wanted):
        request = edge.CountRequest(filter=self.filter(wanted))
        return sum(shard.any().open().count(request) for shard in self.of_key(wanted))

    def create_index(self, wanted):
        schema = wanted["field_schema"]
        params = schema if isinstance(schema, dict) else None
        data_type = params["type"] if params else schema
        self.schema[wanted["field_name"]] = {"data_type": data_type, **({"params": params} if params else {})}
        for shard in self.shards.values():
            for replica in shard.replicas.values():
                replica.index(wanted["field_name"])

    def change(self, wanted):
        if "optimizers_config" in wanted:
            self.grey = False
        for key in ("hnsw_config", "optimizers_config", "quantization_config", "strict_mode_config", "metadata"):
            self.given[key] = {**self.given[key], **(wanted.get(key) or {})}
        self.params = {**self.params, **{key: value for key, value in (wanted.get("params") or {}).items() if value is not None}}

    def remove(self):
        for shard in self.shards.values():
            for replica in shard.replicas.values():
                replica.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def of(name):
    name = aliases.get(name, name)
    if name not in collections:
        raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
    return collections[name]


def remove(name):
    if name not in collections:
        return False
    collections.pop(name).remove()
    for alias in [alias for alias, to in aliases.items() if to == name]:
        del aliases[alias]
    return True


def set_aliases(actions):
    for action in actions:
        if wanted := action.get("create_alias"):
            if wanted["alias_name"] in collections:
                raise Refused(409, f"Wrong input: Collection `{wanted['alias_name']}` already exists!")
            # One that is there is moved, without a word.
            aliases[wanted["alias_name"]] = of(wanted["collection_name"]).name
        elif wanted := action.get("delete_alias"):
            aliases.pop(wanted["alias_name"], None)
        elif wanted := action.get("rename_alias"):
            aliases[wanted["new_alias_name"]] = aliases.pop(wanted["old_alias_name"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, value, plain=False):
        body = value.encode() if plain else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if plain else "application/json")
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
        with (FOLDER / "log").open("a") as log:
            log.write(f"{self.command} {self.path} {self.headers.get('api-key') or ''}\n")
        if elsewhere := fault("elsewhere"):
            self.send_response(307)
            self.send_header("Location", elsewhere + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        try:
            self.may(path)
            result = self.transfer(path, query)
            if result is None:
                with LOCK:
                    result = self.route(path)
            if result is not False:
                self.answer(200, {"result": result[0], "status": "ok", "time": 0.001} if isinstance(result, list) else result)
        except Refused as refused:
            self.close_connection = True
            if refused.plain:
                self.answer(refused.status, str(refused), plain=True)
            else:
                self.answer(refused.status, {"status": {"error": str(refused)}, "time": 0.0})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = handle_any

    def may(self, path):
        key = self.headers.get("api-key") or (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        if not KEY or key == KEY or not path:
            return
        if key is None:
            raise Refused(401, "Must provide an API key or an Authorization bearer token", plain=True)
        if key != f"{KEY}-ro":
            raise Refused(401, "Invalid API key or JWT", plain=True)
        reads = self.command == "GET" or path[-1] in ("count", "scroll", "query")
        if not reads or path[-1] == "snapshot" or "snapshots" in path:
            raise Refused(403, "Forbidden: Global manage access is required")

    def route(self, path):
        """What is answered at once; the result in a list, or an answer of another shape."""
        port = self.server.server_port
        match self.command, path:
            case "GET", []:
                return {"title": "qdrant - vector search engine", "version": fault("version") or "1.18.3"}
            case "GET", ["cluster"]:
                peers = {str(peer): {"uri": f"http://127.0.0.1:{port}/"} for port, peer in PEERS.items()}
                return [{"status": "enabled", "peer_id": PEERS[port], "peers": peers} if CLUSTER else {"status": "disabled"}]
            case "GET", ["collections"]:
                return [{"collections": [{"name": name} for name in collections]}]
            case "GET", ["aliases"]:
                return [{"aliases": [{"alias_name": alias, "collection_name": name} for alias, name in aliases.items()]}]
            case "POST", ["collections", "aliases"]:
                set_aliases(self.body()["actions"])
                return [True]
            case "PUT", ["collections", name]:
                wanted = self.body()
                if name in collections:
                    raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
                if name in aliases:
                    raise Refused(400, f"Bad request: Can't create collection with name {name}. Alias with the same name already exists")
                collections[name] = Collection(name, wanted)
                if (pause := fault("late_create")) is not None:
                    time.sleep(float(pause))
                return [True]
            case "PATCH", ["collections", name]:
                of(name).change(self.body())
                return [True]
            case "GET", ["collections", name]:
                return [of(name).info()]
            case "GET", ["collections", name, "exists"]:
                return [{"exists": aliases.get(name, name) in collections}]
            case "GET", ["collections", name, "cluster"]:
                return [of(name).cluster(port)]
            case "GET", ["collections", name, "aliases"]:
                return [{"aliases": [{"alias_name": alias, "collection_name": to} for alias, to in aliases.items() if to == name]}]
            case "DELETE", ["collections", name]:
                return [remove(name)]
            case "PUT", ["collections", name, "shards"]:
                of(name).add_key(self.body())
                return [True]
            case "POST", ["collections", name, "shards", "delete"]:
                of(name).drop_key(self.body()["shard_key"])
                return [True]
            case "PUT", ["collections", name, "index"]:
                of(name).create_index(self.body())
                return [{"operation_id": 0, "status": "completed"}]
            case "PUT", ["collections", name, "points"]:
                of(name).upsert(self.body())
                return [{"operation_id": 0, "status": "completed"}]
            case "POST", ["collections", name, "points", "query"]:
                return [{"points": of(name).query(self.body())}]
            case "POST", ["collections", name, "points", "scroll"]:
                return [of(name).scroll(self.body())]
            case "POST", ["collections", name, "points", "count"]:
                return [{"count": of(name).count(self.body())}]
            case "POST", ["collections", name, "shards", shard, "snapshots"]:
                made = self.replica(name, shard).snapshot()
                if fault("late") is not None:
                    time.sleep(3)
                return [made]
            case "GET", ["collections", name, "shards", shard, "snapshots"]:
                return [list(self.replica(name, shard).snapshots.values())]
            case "DELETE", ["collections", name, "shards", shard, "snapshots", snapshot]:
                replica = self.replica(name, shard)
                if replica.snapshots.pop(snapshot, None) is None:
                    raise Refused(404, f"Not found: Snapshot {snapshot}")
                (replica.folder.parent / snapshot).unlink()
                return [True]
        raise Refused(404, "", plain=True)

    def replica(self, name, shard):
        if fault("gone") == name and self.command != "DELETE":
            remove(name)
        replicas = of(name).shards.get(int(shard))
        if replicas is None or self.server.server_port not in replicas.replicas:
            raise Refused(404, f"Not found: shard {shard} not found")
        return replicas.replicas[self.server.server_port]

    def transfer(self, path, query):
        """What takes its time, and does not keep others waiting; `None` if it is something else, `False` if it was answered."""
        match self.command, path:
            case "GET", ["collections", name, "shards", shard, "snapshot"]:
                if fault("nostream") is not None:
                    raise Refused(404, "", plain=True)
                file = tempfile.TemporaryFile()
                with LOCK:
                    replica = self.replica(name, shard)
                    if fault("full") is not None:
                        raise Refused(500, "Service internal error: Broken pipe (os error 32)")
                    replica.write_tar(file, nested=False)
                self.stream(file)
                return False
            case "GET", ["collections", name, "shards", shard, "snapshots", snapshot]:
                with LOCK:
                    replica = self.replica(name, shard)
                    if snapshot not in replica.snapshots:
                        raise Refused(404, f"Not found: Snapshot {snapshot}")
                    path = replica.folder.parent / snapshot
                self.download(path)
                return False
            case "POST", ["collections", name, "shards", shard, "snapshots", "upload"]:
                self.upload(name, int(shard), query)
                return [True]
        return None

    def stream(self, file):
        len_, sent = file.tell(), 0
        file.seek(0)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-tar")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while part := file.read(1 << 20):
            if sent >= len_ // 2 and fault("cut") is not None:
                self.close_connection = True
                return
            if sent >= len_ // 2 and fault("short") is not None:
                break
            sent += len(part)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            slow()
        self.wfile.write(b"0\r\n\r\n")

    def download(self, path):
        self.send_response(200)
        self.send_header("Content-Type", "application/x-tar")
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()
        with path.open("rb") as file:
            if fault("cut") is not None:
                self.wfile.write(file.read(path.stat().st_size // 2))
                self.close_connection = True
                return
            if fault("flip") is not None:
                first = bytearray(file.read(100_000))
                first[-1] ^= 1
                self.wfile.write(first)
            while part := file.read(1 << 20):
                self.wfile.write(part)
                slow()

    def upload(self, name, shard, query):
        left = len_ = int(self.headers["Content-Length"])
        boundary = self.headers["Content-Type"].split("boundary=")[1].strip('"').encode()
        # One part: its head up to an empty line, its content, the closing boundary.
        while (line := self.rfile.readline()) != b"\r\n":
            left -= len(line)
        left -= 2 + len(b"\r\n--" + boundary + b"--\r\n")
        hashed = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=FOLDER) as file:
            while left > 0:
                part = self.rfile.read(min(left, 1 << 20))
                if not part:
                    raise ConnectionResetError
                hashed.update(part)
                file.write(part)
                left -= len(part)
                if fault("refuse") is not None and left < len_ // 2:
                    self.close_connection = True
                    self.answer(500, {"status": {"error": "Service internal error: No space left on device (os error 28)"}})
                    # Without this, the answer is lost with what is still on the line.
                    while self.rfile.read(1 << 20):
                        pass
                    raise ConnectionResetError
                slow()
            file.flush()
            self.rfile.read(len(b"\r\n--" + boundary + b"--\r\n"))
            if query.get("checksum") not in (None, hashed.hexdigest()):
                raise Refused(400, f"Bad request: Checksum mismatch: expected: {query['checksum']}, actual: {hashed.hexdigest()}")
            if query.get("priority") not in (None, "snapshot", "replica", "no_sync"):
                raise Refused(400, "Wrong input: unknown priority")
            with LOCK:
                collection, port = of(name), self.server.server_port
                if shard not in collection.shards:
                    raise Refused(404, f"Not found: shard {shard} not found")
                replicas = collection.shards[shard].replicas
                if port not in replicas:
                    replicas[port] = Replica(collection, shard, port)
                for replica in replicas.values() if query.get("priority") == "snapshot" else [replicas[port]]:
                    replica.recover(file.name)
                collection.grey = True


def app_version():
    """The version of the data that this engine writes."""
    with tempfile.TemporaryDirectory() as folder:
        shard = edge.EdgeShard.create(f"{folder}/x", edge.EdgeConfig(vectors=edge.EdgeVectorParams(1, edge.Distance.Dot)))
        shard.flush()
        shard.close()
        return next(pathlib.Path(folder).rglob("version.info")).read_text()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def finish_request(self, request, address):
        if fault("tls.pem"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(FOLDER / "tls.pem")
            request = context.wrap_socket(request, server_side=True)
        super().finish_request(request, address)

    def handle_error(self, *_):
        pass


FOLDER.mkdir(parents=True, exist_ok=True)
APP_VERSION = app_version()
servers = [Server(("127.0.0.1", port), Handler) for port in PORTS]
for server in servers[1:]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
servers[0].serve_forever()
