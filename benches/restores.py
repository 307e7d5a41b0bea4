"""Restores into working servers against the servers' own programs, in the same run and with the same settings of the server.

Usage: restores.py ESKER [--only postgres,redis,physical] [--runs 3] [--megabytes 2000] [--tables 10000] [--jobs 1,2,4]
                   [--keys 1400000] [--server redis-server]

Each part is a function below, called by its name, with servers of its own on free ports in a temporary folder. It prints the
settings of both sides, then medians and ratios of pairs that ran one after the other, and what they are to stay below.

postgres: a database of some GB with five kinds of indexes, and one of ten thousand small tables, by `esker restore --to` from a local
repository, and by `pg_restore -jN` from a local uncompressed dump in directory format.

redis: `esker restore --whole` into an empty server, without the comparison of every key that follows it and is printed beside it, against
the start of the same server from the same dump.rdb. Once by replication, once by RESTORE over several connections.

physical: `esker restore --prepare` into an empty folder against `pgbackrest restore` of the same cluster, and over an older copy of which
every hundredth page has changed against the same into an empty folder. Needs pgbackrest.
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

ENVIRONMENT = {"PATH": os.environ["PATH"], "ESKER_PASSWORD": "bench", "ESKER_PROGRESS_FPS": "0"}


def run(command, environment, **more):
    return subprocess.run(command, env=environment, check=True, **more)


def timed(command, environment):
    begin = time.monotonic()
    run(command, environment, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def told(name, theirs, ours, bound):
    """Medians of both sides and of the ratios of their pairs."""
    ratios = [our / their for our, their in zip(ours, theirs)]
    pairs = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    limit = f", to stay below {bound}x" if bound else ""
    print(f"{name}: {statistics.median(theirs):.2f} s, esker {statistics.median(ours):.2f} s: "
          f"{statistics.median(ratios):.2f}x (pairs: {pairs}){limit}", flush=True)


def machine():
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


# What shops keep, in one table that is larger than all others and some that are not; each has keys, and the first ones the other kinds
# of indexes. About 170 bytes a row in a dump.
TABLE = """
create table {name} (id bigint primary key, customer int, placed timestamptz, shipped timestamptz, total numeric(12,2),
  status text, place point, lines jsonb) {storage};
insert into {name} select i, (i * 7919) % 300000, '2025-01-01'::timestamptz + i * interval '7 seconds',
  '2025-01-03'::timestamptz + i * interval '7 seconds', (i * 31 % 99991) / 100.0,
  (array['new','paid','packed','shipped','returned'])[1 + i % 5], point(i % 3607, i % 1801),
  jsonb_build_object('sku', 'A-' || i % 5000, 'count', i % 9, 'price', i % 777, 'gift', i % 3 = 0, 'note', 'leave at the door')
  from generate_series(1::bigint, {rows}) i;
create index on {name} (customer, placed);
create index on {name} using brin (placed);
create index on {name} using hash (status) where id % 10 = 0;
"""
LARGE = """
create index on {name} using gin (lines jsonb_path_ops);
create index on {name} using gist (place);
"""
BYTES_A_ROW = 170
SETTINGS = {"shared_buffers": "512MB", "maintenance_work_mem": "256MB", "max_wal_size": "8GB", "checkpoint_timeout": "1h",
            "autovacuum": "off", "max_locks_per_transaction": "512"}


def postgres(args, scratch):
    versions = sorted(int(entry.name) for entry in pathlib.Path("/usr/lib/postgresql").iterdir() if entry.name.isdigit())
    programs = pathlib.Path(f"/usr/lib/postgresql/{versions[-1]}/bin")
    home = scratch / "pg"
    home.mkdir()
    drop = []
    if os.geteuid() == 0:
        shutil.chown(home, "postgres")
        drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "env", f"HOME={home}"]
    port = free_port()
    environment = ENVIRONMENT | {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(scratch), "PGHOST": "127.0.0.1",
                                 "PGPORT": str(port), "PGUSER": "postgres"}
    url = f"postgres://postgres@127.0.0.1:{port}"

    quiet = environment | {"PGOPTIONS": "-c client_min_messages=warning"}

    def sql(text, database="postgres"):
        command = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", text]
        return run(command, quiet, stdout=subprocess.PIPE, text=True).stdout.strip()

    def digest(database):
        """Counts and sums of hashes of all rows of all tables, and how many indexes and constraints there are."""
        tables = sql("select quote_ident(relname) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace "
                     "order by 1", database).split("\n")
        # A thousand tables a statement.
        sums = []
        for at in range(0, len(tables), 500):
            each = [f"select '{table}', count(*), sum(hashtextextended(t::text, 0)) from {table} t" for table in tables[at:at + 500]]
            sums.append(sql(" union all ".join(each) + " order by 1", database))
        made = sql("select count(*), sum(hashtextextended(indexdef, 0)) from pg_indexes where schemaname = 'public'", database)
        return sums, made, sql("select count(*) from pg_constraint", database)

    def compare(name, database, jobs, bound):
        dump = scratch / f"{database}.dir"
        shutil.rmtree(dump, ignore_errors=True)
        run(["pg_dump", "-Fd", "-Z0", "-j2", "-f", str(dump), database], environment)
        repository = environment | {"ESKER_REPOSITORY": str(scratch / f"{database}.repo")}
        run([args.esker, "-q", "init"], repository)
        run([args.esker, "-q", "backup", f"{url}/{database}"], repository)
        size = sum(file.stat().st_size for file in dump.iterdir())
        print(f"{name}: {size / 1e6:.0f} MB of rows, {len(list(dump.iterdir()))} files")
        wanted = digest(database)
        for count in jobs:
            theirs, ours = [], []
            for number in range(args.runs):
                for way in ("theirs", "ours") if number % 2 == 0 else ("ours", "theirs"):
                    sql("drop database if exists back")
                    sql("checkpoint")
                    if way == "theirs":
                        sql("create database back template template0")
                        theirs.append(timed(["pg_restore", f"-j{count}", "-d", "back", str(dump)], environment))
                    else:
                        ours.append(timed([args.esker, "-q", "restore", "latest", "--to", f"{url}/back", "--jobs", str(count)],
                                          repository))
                    if number == 0:
                        assert digest("back") == wanted, f"{way} with {count} jobs brought something else back"
            told(f"{name}: pg_restore -j{count}", theirs, ours, bound if count > 1 else None)
        shutil.rmtree(dump)

    run([*drop, str(programs / "initdb"), "-D", str(home / "data"), "-A", "trust", "-U", "postgres", "--no-sync"], environment,
        stdout=subprocess.DEVNULL, cwd=home)
    settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    server = subprocess.Popen([*drop, str(programs / "postgres"), "-D", str(home / "data"), "-p", str(port), "-k", str(home),
                               *settings], stderr=subprocess.DEVNULL, cwd=home)
    try:
        while subprocess.run(["psql", "-Xqc", "select 1", "postgres"], env=environment, capture_output=True).returncode:
            time.sleep(0.1)
        shown = ", ".join(f"{name}={value}" for name, value in SETTINGS.items())
        print(f"PostgreSQL {versions[-1]}: {shown}, otherwise its defaults (fsync {sql('show fsync')}, wal_level {sql('show wal_level')}); "
              f"programs of the same version; {machine()}")
        jobs = [int(count) for count in args.jobs.split(",")]
        sql("create database shop")
        rows = args.megabytes * 1_000_000 // BYTES_A_ROW
        sql(TABLE.format(name="orders", rows=rows // 2, storage="") + LARGE.format(name="orders"), "shop")
        for number in range(8):
            sql(TABLE.format(name=f"part{number}", rows=rows // 16, storage="") + (LARGE.format(name=f"part{number}") if number < 2 else ""), "shop")
        sql("alter table part0 add foreign key (id) references orders", "shop")
        sql("vacuum analyze", "shop")
        compare("large tables", "shop", jobs, 1.15)
        sql("drop database if exists back")
        sql("drop database shop")
        sql("create database many")
        for at in range(0, args.tables, 500):
            sql(f"do $$ begin for i in {at + 1}..{min(at + 500, args.tables)} loop "
                "execute format('create table t%s (id int primary key, name text, above int)', i); "
                "execute format('insert into t%s select j, md5(j::text), j %% 3 from generate_series(1, %s) j', i, i % 20); "
                "execute format('create index on t%s (above)', i); end loop; end $$", "many")
        compare("small tables", "many", jobs, 1.3)
    finally:
        server.terminate()
        server.wait()


# The data of redis.py: four kinds of keys, values that do not compress much.
FILL = """
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local sha = redis.sha1hex(i)
  local value = redis.sha1hex(sha)
  local kind = i % 4
  if kind == 0 then redis.call('HSET', 'user:'..sha, 'name', 'user '..i, 'token', value, 'seen', i * 7, 'plan', 'basic')
  elseif kind == 1 then redis.call('SET', 'session:'..sha, value..redis.sha1hex(value)..string.rep('x', i % 90))
  elseif kind == 2 then redis.call('ZADD', 'scores:'..sha, i, sha, i * 2, 'b'..value)
  else redis.call('RPUSH', 'queue:'..sha, value, i) end
end
return 1"""
REDIS_SETTINGS = ["save", "appendonly", "rdbcompression", "rdbchecksum", "sanitize-dump-payload", "repl-diskless-load",
                  "maxmemory", "io-threads"]


def redis(args, scratch):
    environment, running = ENVIRONMENT, []

    def start(folder):
        """A server over a folder; returns its port, its process, and the seconds until it answers."""
        folder.mkdir(exist_ok=True)
        port = free_port()
        began = time.monotonic()
        process = subprocess.Popen(
            [args.server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder),
             "--repl-diskless-sync-delay", "0"], stdout=subprocess.DEVNULL)
        running.append(process)
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=60) as stream:
                    stream.sendall(b"PING\r\n")
                    if stream.recv(100).startswith(b"+PONG"):
                        return port, process, time.monotonic() - began
            except OSError:
                pass
            time.sleep(0.005)

    def stop(process):
        process.kill()
        process.wait()
        running.remove(process)

    def cli(port, *words):
        return subprocess.run(["redis-cli", "-p", str(port), *map(str, words)], capture_output=True, text=True, check=True).stdout

    def esker(*words):
        command = [args.esker, "-r", str(scratch / "repo"), "--cache-dir", str(scratch / "cache"), "--json", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"{command}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])

    def measure():
        port, process, _ = start(scratch / "source")
        for first in range(1, args.keys + 1, 100_000):
            cli(port, "eval", FILL, 0, first, min(first + 99_999, args.keys))
        esker("init")
        esker("backup", f"redis://127.0.0.1:{port}")
        stop(process)
        esker("restore", "latest", "--target", scratch / "out")
        (dump,) = (scratch / "out").rglob("dump.rdb")
        own, restores, verified = [], {"replication": [], "RESTORE": []}, []
        settings = ""
        for number in range(args.runs):
            folder = scratch / f"own-{number}"
            folder.mkdir()
            shutil.copy(dump, folder / "dump.rdb")
            port, process, seconds = start(folder)
            own.append(seconds)
            keys = int(cli(port, "dbsize"))
            if keys != args.keys:
                raise SystemExit(f"{keys} keys after the start from {dump}")
            stop(process)
            shutil.rmtree(folder)
            for way, times in restores.items():
                port, process, _ = start(scratch / f"{way}-{number}")
                settings = ", ".join("=".join(cli(port, "config", "get", name).split("\n")[:2]) for name in REDIS_SETTINGS)
                more = ["-o", "redis.replicate-from=never"] if way == "RESTORE" else []
                done = esker(*more, "restore", "latest", "--to", f"redis://127.0.0.1:{port}", "--whole", "--yes")
                if done["loaded_by"] != way or done["keys_different"]:
                    raise SystemExit(f"{way}: {done}")
                times.append(done["seconds_elapsed"] - done["seconds_verifying"])
                verified.append(done["seconds_verifying"])
                stop(process)
                shutil.rmtree(scratch / f"{way}-{number}")
        version = subprocess.run([args.server, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        base = statistics.median(own)
        print(f"{version}; both sides: {settings}")
        print(f"{args.keys} keys, dump.rdb of {dump.stat().st_size / 1e6:.0f} MB, {os.cpu_count()} cores, "
              f"load {os.getloadavg()[0]:.1f}, medians of {args.runs}")
        print(f"the server's own start from dump.rdb: {base:.2f} s")
        for way, times in restores.items():
            seconds = statistics.median(times)
            print(f"esker restore --whole, by {way}: {seconds:.2f} s, {seconds / base:.2f}x")
        print(f"and every key compared: {statistics.median(verified):.2f} s more")

    try:
        measure()
    finally:
        for process in list(running):
            stop(process)


def physical(args, scratch):
    versions = sorted(int(entry.name) for entry in pathlib.Path("/usr/lib/postgresql").iterdir() if entry.name.isdigit())
    programs = pathlib.Path(f"/usr/lib/postgresql/{versions[-1]}/bin")
    home = scratch / "pg"
    home.mkdir()
    drop = []
    if os.geteuid() == 0:
        shutil.chown(home, "postgres")
        drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "env", f"HOME={home}"]
    port = free_port()
    conf = home / "pgbackrest.conf"
    # The settings that cost it least for what is comparable: zstd as esker has it, no encryption, which esker has, two processes.
    conf.write_text(f"[global]\nrepo1-path={home}/repo\nlog-path={home}\nlock-path={home}\nspool-path={home}\nprocess-max=2\n"
                    f"compress-type=zst\nstart-fast=y\n[main]\npg1-path={home}/data\npg1-port={port}\npg1-socket-path={home}\n"
                    "pg1-user=postgres\n")
    environment = ENVIRONMENT | {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(scratch), "PGHOST": "127.0.0.1",
                                 "PGPORT": str(port), "PGUSER": "postgres",
                                 "ESKER_REPOSITORY": str(scratch / "repo"), "ESKER_CACHE_DIR": str(scratch / "cache")}
    url = f"postgres+physical://postgres@127.0.0.1:{port}"

    def theirs(*words):
        return [*drop, "pgbackrest", f"--config={conf}", "--stanza=main", *words]

    def sql(text, database="postgres"):
        command = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", text]
        return run(command, environment, stdout=subprocess.PIPE, text=True).stdout.strip()

    def verified(folder):
        run([*drop, str(programs / "pg_verifybackup"), "-q", str(folder)], environment, stdout=subprocess.DEVNULL)

    def esker(folder, *more):
        return timed([args.esker, "-q", "restore", "latest", "--target", str(folder), "--prepare", *more], environment)

    run([*drop, str(programs / "initdb"), "-D", str(home / "data"), "-A", "trust", "-U", "postgres", "--no-sync", "-k"], environment,
        stdout=subprocess.DEVNULL, cwd=home)
    server = subprocess.Popen([*drop, str(programs / "postgres"), "-D", str(home / "data"), "-p", str(port), "-k", str(home),
                               "-c", "archive_mode=on", "-c", f"archive_command={shutil.which('pgbackrest')} --config={conf} --stanza=main "
                               "archive-push %p", "-c", "max_wal_size=8GB", "-c", "autovacuum=off"],
                              stderr=subprocess.DEVNULL, cwd=home)
    try:
        while subprocess.run(["psql", "-Xqc", "select 1", "postgres"], env=environment, capture_output=True).returncode:
            time.sleep(0.1)
        rows = args.megabytes * 1_000_000 // 2 // BYTES_A_ROW
        for number in range(4):
            # Room in each page for a row's next version, so that an update changes that page and no index.
            sql(TABLE.format(name=f"part{number}", rows=rows // 4, storage="with (fillfactor = 95)"))
        sql("vacuum freeze analyze")
        sql("checkpoint")
        run(theirs("stanza-create"), environment, stdout=subprocess.DEVNULL, cwd=home)

        def night(kind):
            run(theirs("backup", f"--type={kind}"), environment, stdout=subprocess.DEVNULL, cwd=home)
            run([args.esker, "-q", "backup", url], environment)

        run([args.esker, "-q", "init"], environment)
        night("full")
        size = sum(file.stat().st_size for file in (home / "data").rglob("*") if file.is_file() and "pg_wal" not in file.parts)
        print(f"PostgreSQL {versions[-1]}, a cluster of {size / 1e6:.0f} MB without its WAL; pgbackrest: zst, no encryption, process-max=2; "
              f"esker: its defaults; {machine()}")
        back, copy = home / "back", home / "copy"

        def cleared():
            shutil.rmtree(back, ignore_errors=True)
            os.sync()

        def pair(name, bound, their, our):
            sides = {"theirs": [], "ours": []}
            for number in range(args.runs):
                for way in ("theirs", "ours") if number % 2 == 0 else ("ours", "theirs"):
                    sides[way].append(their() if way == "theirs" else our())
            told(name, sides["theirs"], sides["ours"], bound)

        def their_full():
            cleared()
            back.mkdir(mode=0o700)
            if drop:
                shutil.chown(back, "postgres")
            return timed(theirs("restore", f"--pg1-path={back}"), environment)

        def our_full():
            cleared()
            seconds = esker(back)
            verified(back)
            return seconds

        pair("into an empty folder: pgbackrest", 0.8, their_full, our_full)
        cleared()
        esker(copy)
        for number in range(4):
            pages = int(sql(f"select pg_relation_size('part{number}') / 8192"))
            sql(f"update part{number} set total = total + 1 where ctid in "
                f"(select format('(%s,1)', p)::tid from generate_series(0, {pages} - 1, 100) p)")
        sql("checkpoint")
        night("incr")

        def differing(old, new):
            """The share of the pages of `new` that `old` does not have, WAL apart."""
            pages = differ = 0
            for file in (file for file in new.rglob("*") if file.is_file() and "pg_wal" not in file.parts):
                there = old / file.relative_to(new)
                theirs, ours = there.read_bytes() if there.exists() else b"", file.read_bytes()
                starts = range(0, len(ours), 8192)
                pages += len(starts)
                differ += sum(ours[start:start + 8192] != theirs[start:start + 8192] for start in starts)
            return differ / pages

        our_full()
        print(f"of the older copy, {differing(copy, back):.1%} of the pages differ", flush=True)

        def our_delta():
            cleared()
            run(["cp", "-a", str(copy), str(back)], environment)
            os.sync()
            seconds = esker(back, "--replace")
            verified(back)
            return seconds

        pair("over a copy with 1 % of its pages changed: the same into an empty folder", 0.25, our_full, our_delta)
    finally:
        server.terminate()
        server.wait()


PARTS = {"postgres": postgres, "redis": redis, "physical": physical}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("esker")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--tables", type=int, default=10_000)
    parser.add_argument("--jobs", default="1,2,4")
    parser.add_argument("--keys", type=int, default=1_400_000)
    parser.add_argument("--server", default="redis-server")
    args = parser.parse_args()
    args.esker = str(pathlib.Path(args.esker).resolve())
    for name in filter(None, (args.only or ",".join(PARTS)).split(",")):
        scratch = pathlib.Path(tempfile.mkdtemp(prefix="esker-restores-"))
        scratch.chmod(0o755)
        try:
            PARTS[name](args, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


main()
