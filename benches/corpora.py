#!/usr/bin/env python3
"""Makes the data that the benchmarks run over, from fixed seeds: nothing large is committed.

usage: corpora.py OUT [NAME...] [--nights N] [--scale N]

NAME is any of pg, redis, kernel, random, tree, qdrant, small; all by default. A corpus that is there is left
alone. Needs PostgreSQL and Redis servers (scripts/install-servers.sh), for kernel apt, for qdrant the wheel
qdrant-edge-py in the Python that runs this.

  pg-NN.sql      pg_dump, night after night: pgbench at --scale (60) and an events table with jsonb; each
                 night 20,000 transactions, and 1 % of the rows of both tables changed, added and removed
  redis-NN.rdb   1.4 million keys of all types in one server; each night 1 % changed, added and removed
  kernel-N.tar   two releases of one Debian kernel source package
  random         1 GB that neither dedupes nor compresses
  tree-N/        200,000 small files; in tree-2 1 % of them changed
  qdrant-N/      a Qdrant shard of 100,000 points; in qdrant-2 1 % of them upserted
  small-NN.json  a JSON-lines export of about 60 MB, 1 % of its documents changed each night, 60 nights
"""
import argparse
import glob
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(*args, **kwargs):
    return subprocess.run([str(arg) for arg in args], check=True, **kwargs)


class Postgres:
    """A throw-away cluster; as root it runs as the user postgres, which the server insists on."""

    def __init__(self, folder):
        binaries = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
        self.bin, self.port, self.data = binaries[-1], free_port(), f"{folder}/data"
        self.prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
        os.chmod(folder, 0o755)
        if self.prefix:
            shutil.chown(folder, "postgres", "postgres")
        self.call("initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "--no-sync")
        with open(f"{self.data}/postgresql.conf", "a") as conf:
            # Nothing may happen by itself, or the dumps would differ from run to run.
            conf.write(f"listen_addresses='127.0.0.1'\nport={self.port}\nunix_socket_directories='{folder}'\n")
            conf.write("fsync=off\nautovacuum=off\nshared_buffers=1GB\nmax_wal_size=8GB\nmax_parallel_workers_per_gather=0\n")
        self.call("pg_ctl", "-D", self.data, "-l", f"{folder}/log", "-w", "start")

    def call(self, program, *args, **kwargs):
        kwargs.setdefault("stdout", subprocess.DEVNULL)
        kwargs.setdefault("stderr", subprocess.DEVNULL)
        return run(*self.prefix, f"{self.bin}/{program}", *args, cwd="/", **kwargs)

    def client(self, program, *args, **kwargs):
        return self.call(program, "-h", "127.0.0.1", "-p", self.port, "-U", "postgres", *args, **kwargs)

    def sql(self, text):
        self.client("psql", "-q", "-v", "ON_ERROR_STOP=1", "postgres", "-c", text)

    def stop(self):
        self.call("pg_ctl", "-D", self.data, "-m", "immediate", "stop")


EVENT = """jsonb_build_object('session', md5(({n} * 7)::text), 'trace', md5(({n} * 13)::text) || md5(({n} * 17)::text), 'user', ({n} * 2654435761) % 1000003, 'path',
 '/shop/' || (array['cart','item','search','checkout','help'])[1 + {n} % 5] || '/' || ({n} * 40503) % 65536,
 'agent', (array['Mozilla/5.0 (X11; Linux x86_64)','Mozilla/5.0 (Macintosh; Intel Mac OS X)','curl/8.5.0'])[1 + {n} % 3],
 'ms', ({n} * 48271) % 997, 'tags', jsonb_build_array('t' || {n} % 17, 't' || {n} % 29))"""


def make_pg(out, nights, scale):
    # The user postgres may be kept out of a folder of root's.
    folder = tempfile.mkdtemp(prefix="corpus-pg-", dir=None if os.geteuid() == 0 else out)
    server = Postgres(folder)
    try:
        server.client("pgbench", "-i", "-q", "-s", scale, "postgres")
        events = 16_000 * scale
        server.sql("CREATE TABLE events(id bigint PRIMARY KEY, at timestamptz NOT NULL, kind text NOT NULL, body jsonb NOT NULL)")
        row = "{n}, timestamptz '2026-01-01' + {n} * interval '1.7 seconds', 'kind-' || {n} % 11, " + EVENT
        server.sql(f"INSERT INTO events SELECT {row.format(n='g')} FROM generate_series(1::bigint, {events}) g")
        for night in range(1, nights + 1):
            if night > 1:
                server.client("pgbench", "-n", "-c", "1", "-t", 20_000, f"--random-seed={night}", "postgres")
                pick = f"abs(hashint8extended({{key}}, {night})) % 1000 {{range}}"
                server.sql(f"UPDATE pgbench_accounts SET abalance = abalance + {night} WHERE " + pick.format(key="aid", range="< 10"))
                server.sql(f"UPDATE events SET body = body || jsonb_build_object('seen', id % 97 + {night}) WHERE " + pick.format(key="id", range="< 8"))
                server.sql("DELETE FROM events WHERE " + pick.format(key="id", range="= 8"))
                first, last = events + 1, events + events // 1000
                server.sql(f"INSERT INTO events SELECT {row.format(n='g')} FROM generate_series({first}::bigint, {last}) g")
                events = last
            server.sql("VACUUM")
            with open(f"{out}/pg-{night:02}.sql.new", "wb") as file:
                server.client("pg_dump", "postgres", stdout=file)
            os.rename(f"{out}/pg-{night:02}.sql.new", f"{out}/pg-{night:02}.sql")
    finally:
        server.stop()
        shutil.rmtree(folder)


WORDS = ["".join(random.Random(n).choices("etaoinshrdlucmfwypvbgkqjxz", k=3 + n % 8)) for n in range(4000)]


def command(*args):
    parts = [str(arg).encode() for arg in args]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def key_commands(rng, number):
    """Commands that set key `number` anew: a string, hash, list, set or sorted set."""
    kind = number % 10
    words = lambda least, most: [rng.choice(WORDS) for _ in range(rng.randint(least, most))]
    if kind < 5:
        yield command("SET", f"user:{number}", f'{{"id":{number},"name":"{rng.choice(WORDS)} {rng.choice(WORDS)}","token":"{rng.getrandbits(160):x}","about":"{" ".join(words(6, 22))}","seen":{rng.getrandbits(30)}}}')
    elif kind < 7:
        fields = [item for word in words(6, 14) for item in (word, rng.getrandbits(40))]
        yield command("DEL", f"session:{number}")
        yield command("HSET", f"session:{number}", *fields)
    elif kind == 7:
        yield command("DEL", f"queue:{number}")
        yield command("RPUSH", f"queue:{number}", *words(4, 20))
    elif kind == 8:
        yield command("DEL", f"tags:{number}")
        yield command("SADD", f"tags:{number}", *(rng.getrandbits(24) for _ in range(rng.randint(3, 12))))
    else:
        yield command("DEL", f"board:{number}")
        yield command("ZADD", f"board:{number}", *(item for word in words(3, 10) for item in (rng.randint(0, 100_000), word)))


def make_redis(out, nights, _scale):
    folder, port = tempfile.mkdtemp(prefix="corpus-redis-", dir=out), free_port()
    server = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder,
                               "--daemonize", "no", "--hash-max-listpack-entries", "128"], stdout=subprocess.DEVNULL)

    def feed(commands):
        pipe = subprocess.Popen(["redis-cli", "-p", str(port), "--pipe"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for item in commands:
            pipe.stdin.write(item)
        pipe.stdin.close()
        if pipe.wait():
            raise SystemExit("redis-cli --pipe failed")

    try:
        for _ in range(100):
            if subprocess.run(["redis-cli", "-p", str(port), "ping"], capture_output=True).stdout == b"PONG\n":
                break
            time.sleep(0.1)
        count, rng = 1_400_000, random.Random(1)
        feed(item for number in range(count) for item in key_commands(rng, number))
        for night in range(1, nights + 1):
            if night > 1:
                rng = random.Random(night)
                changed = (rng.randrange(count) for _ in range(1_400_000 // 100))
                added = range(count, count + 1400)
                removed = (command("DEL", f"user:{rng.randrange(count) // 10 * 10}") for _ in range(1400))
                feed([item for number in [*changed, *added] for item in key_commands(rng, number)])
                feed(list(removed))
                count += 1400
            run("redis-cli", "-p", port, "SAVE", stdout=subprocess.DEVNULL)
            os.rename(f"{folder}/dump.rdb", f"{out}/redis-{night:02}.rdb")
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)


def make_kernel(out, _nights, _scale):
    package = "linux-source-6.1"
    listing = run("apt-cache", "madison", package, capture_output=True, text=True).stdout
    versions = sorted({line.split("|")[1].strip() for line in listing.splitlines()}, key=lambda v: [int(p) for p in v.replace("-", ".").split(".")])
    wanted = [version for version in versions if version.startswith(("6.1.187-1", "6.1.192-2"))]
    if len(wanted) != 2:
        wanted = [versions[0], versions[-1]]
    for number, version in enumerate(wanted, 1):
        folder = tempfile.mkdtemp(prefix="corpus-kernel-", dir=out)
        os.chmod(folder, 0o777)
        run("apt-get", "download", "-qq", f"{package}={version}", cwd=folder)
        run("dpkg-deb", "-x", *glob.glob(f"{folder}/*.deb"), f"{folder}/x")
        with open(f"{out}/kernel-{number}.tar.new", "wb") as file:
            run("xz", "-dc", *glob.glob(f"{folder}/x/usr/src/*.tar.xz"), stdout=file)
        os.rename(f"{out}/kernel-{number}.tar.new", f"{out}/kernel-{number}.tar")
        with open(f"{out}/kernel-{number}.version", "w") as file:
            file.write(version + "\n")
        shutil.rmtree(folder)


def make_random(out, _nights, _scale):
    rng = random.Random(3)
    with open(f"{out}/random.new", "wb") as file:
        for _ in range(1000):
            file.write(rng.randbytes(1_000_000))
    os.rename(f"{out}/random.new", f"{out}/random")


def make_tree(out, _nights, _scale):
    for version in (1, 2):
        rng, change = random.Random(4), random.Random(5)
        base = f"{out}/tree-{version}.new"
        for number in range(200_000):
            folder = f"{base}/{number % 97:02}/{number % 23:02}"
            if number < 97 * 23:
                os.makedirs(folder, exist_ok=True)
            text = " ".join(rng.choices(WORDS, k=rng.randint(1, 120))) + f"\n{rng.getrandbits(64):x}\n"
            if change.random() < 0.01 and version == 2:
                text = text.replace("e", "E", 1) + "changed\n"
            with open(f"{folder}/{number}.txt", "w") as file:
                file.write(text)
        os.rename(base, f"{out}/tree-{version}")


def make_qdrant(out, _nights, _scale):
    import numpy
    import qdrant_edge as edge

    folder = f"{out}/qdrant.work"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    config = edge.EdgeConfig(vectors={"v": edge.EdgeVectorParams(size=128, distance=edge.Distance.Cosine)})
    shard = edge.EdgeShard.create(folder, config)
    rng = numpy.random.default_rng(6)

    def upsert(ids):
        points = [edge.Point(int(number), {"v": rng.random(128, dtype="float32").tolist()}, {"n": int(number), "word": WORDS[number % 4000]}) for number in ids]
        shard.update(edge.UpdateOperation.upsert_points(points))

    for start in range(0, 100_000, 1000):
        upsert(range(start, start + 1000))
    shard.flush()
    shutil.copytree(folder, f"{out}/qdrant-1")
    upsert(sorted({int(number) for number in rng.integers(0, 100_000, 1000)}))
    shard.flush()
    shard.close()
    shutil.copytree(folder, f"{out}/qdrant-2")
    shutil.rmtree(folder)


def make_small(out, _nights, _scale):
    rng = random.Random(9)

    def document(number):
        return f'{{"_id":{number},"name":"{rng.choice(WORDS)} {rng.choice(WORDS)}","mail":"{rng.choice(WORDS)}{rng.getrandbits(20)}@example.org","balance":{rng.randint(0, 10**6)},"notes":"{" ".join(rng.choices(WORDS, k=rng.randint(5, 40)))}","token":"{rng.getrandbits(128):x}"}}\n'

    documents = [document(number) for number in range(200_000)]
    for night in range(1, 61):
        if night > 1:
            for number in rng.sample(range(len(documents)), len(documents) // 100):
                documents[number] = document(number)
        with open(f"{out}/small-{night:02}.json.new", "w") as file:
            file.write("".join(documents))
        os.rename(f"{out}/small-{night:02}.json.new", f"{out}/small-{night:02}.json")


MAKERS = {
    "pg": (make_pg, "pg-{nights:02}.sql"), "redis": (make_redis, "redis-{nights:02}.rdb"),
    "kernel": (make_kernel, "kernel-2.tar"), "random": (make_random, "random"), "tree": (make_tree, "tree-2"),
    "qdrant": (make_qdrant, "qdrant-2"), "small": (make_small, "small-60.json"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("names", nargs="*", choices=[*MAKERS, []], metavar="NAME")
    parser.add_argument("--nights", type=int, default=14)
    parser.add_argument("--scale", type=int, default=60)
    options = parser.parse_args()
    out = os.path.abspath(options.out)
    os.makedirs(out, exist_ok=True)
    for name in options.names or MAKERS:
        maker, last = MAKERS[name]
        if not os.path.exists(f"{out}/{last.format(nights=options.nights)}"):
            start = time.monotonic()
            maker(out, options.nights, options.scale)
            print(f"{name}: made in {time.monotonic() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
