"""A PostgreSQL database through several sessions of one snapshot against `pg_dump | esker backup --stdin`: wall time of a
first night and of the next, while a writer works, and whether what comes back is of one moment.

Usage: postgres.py ESKER [--megabytes 2000] [--runs 3] [--data mixed|pgbench]

Starts a PostgreSQL (the highest version under /usr/lib/postgresql) on a free port in a temporary folder. Prints medians and
ratios of pairs that ran one after the other.
"""

import argparse
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("esker")
parser.add_argument("--megabytes", type=int, default=2000)
parser.add_argument("--runs", type=int, default=3)
parser.add_argument("--data", choices=["mixed", "pgbench"], default="mixed")
args = parser.parse_args()

versions = sorted(int(entry.name) for entry in pathlib.Path("/usr/lib/postgresql").iterdir() if entry.name.isdigit())
programs = pathlib.Path(f"/usr/lib/postgresql/{versions[-1]}/bin")
scratch = pathlib.Path(tempfile.mkdtemp(prefix="esker-postgres-"))
scratch.chmod(0o755)
home = scratch / "pg"
home.mkdir()
drop = []
if os.geteuid() == 0:
    shutil.chown(home, "postgres")
    drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "env", f"HOME={home}"]
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
url = f"postgres://postgres@127.0.0.1:{port}/shop"
environment = {"PATH": f"{programs}:{os.environ['PATH']}", "ESKER_PASSWORD": "bench", "ESKER_PROGRESS_FPS": "0",
               "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres", "HOME": str(scratch)}

# What shops keep: numbers, moments, amounts, short texts, a document; about 240 bytes a row of text.
MIXED = """
create table account (id bigint primary key, name text, balance bigint not null);
insert into account select i, 'account ' || i, 1000 from generate_series(1, 1000) i;
create table orders (id bigint primary key, customer int, placed timestamptz, shipped timestamptz, total numeric(12,2),
  tax numeric(8,4), status text, weight float8, lines jsonb);
insert into orders select i, (i * 7919) % 300000, '2025-01-01'::timestamptz + i * interval '7 seconds',
  '2025-01-03'::timestamptz + i * interval '7 seconds', (i * 31 % 99991) / 100.0, (i % 1900) / 10000.0,
  (array['new','paid','packed','shipped','returned'])[1 + i % 5], i / 7.0,
  jsonb_build_object('sku', 'A-' || i % 5000, 'count', i % 9, 'price', i % 777, 'gift', i % 3 = 0, 'note', 'leave at the door')
  from generate_series(1::bigint, {rows}) i;
"""


def run(command, **more):
    return subprocess.run(command, env=environment, check=True, **more)


def sql(text, database="shop"):
    return run(["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", text], capture_output=True,
               text=True).stdout.strip()


def timed(command):
    begin = time.monotonic()
    run(["sh", "-c", command], stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


def writer(stop, count):
    """Moves money between accounts: the sum of all stays the same in every moment."""
    process = subprocess.Popen(["psql", "-Xq", "-d", "shop"], env=environment, stdin=subprocess.PIPE, text=True)
    while not stop.is_set():
        count[0] += 1
        one, other = count[0] % 1000 + 1, count[0] * 7 % 1000 + 1
        process.stdin.write(f"begin; update account set balance = balance - 5 where id = {one}; "
                            f"update account set balance = balance + 5 where id = {other}; "
                            f"insert into log values ({one}, {other}); commit;\n")
        process.stdin.flush()
        time.sleep(0.02)
    process.stdin.close()
    process.wait()


run([*drop, str(programs / "initdb"), "-D", str(home / "data"), "-A", "trust", "-U", "postgres", "--no-sync"],
    stdout=subprocess.DEVNULL)
server = subprocess.Popen([*drop, str(programs / "postgres"), "-D", str(home / "data"), "-p", str(port), "-k", str(home),
                           "-c", "fsync=off", "-c", "max_wal_size=8GB", "-c", "shared_buffers=512MB",
                           "-c", "autovacuum=off"], stderr=subprocess.DEVNULL)
try:
    while subprocess.run(["psql", "-Xqc", "select 1", "postgres"], env=environment, capture_output=True).returncode:
        time.sleep(0.1)
    sql("create database shop", "postgres")
    if args.data == "mixed":
        sql(MIXED.format(rows=args.megabytes * 1_000_000 // 185))
    else:
        run(["pgbench", "-i", "-q", "-I", "dtGvp", "-s", str(args.megabytes * 10 // 98), "shop"], capture_output=True)
        sql("create table account (id bigint primary key, name text, balance bigint not null)")
        sql("insert into account select i, 'account ' || i, 1000 from generate_series(1, 1000) i")
    sql("create table log (a int, b int)")
    sql("vacuum analyze")
    sql("checkpoint")
    stop, count = threading.Event(), [0]
    thread = threading.Thread(target=writer, args=(stop, count))
    thread.start()
    ratios = {"first night": [], "next night": []}
    times = {}
    for number in range(args.runs):
        for way, command in (
            ("pg_dump | esker", f"pg_dump shop | {args.esker} -q backup --stdin"),
            ("sessions", f"{args.esker} -q backup {url}"),
        ):
            environment["ESKER_REPOSITORY"] = str(scratch / f"repo-{way[:2]}")
            shutil.rmtree(environment["ESKER_REPOSITORY"], ignore_errors=True)
            run([args.esker, "-q", "init"])
            for night in ratios:
                times.setdefault((night, way), []).append(timed(command))
        for night, list_of in ratios.items():
            list_of.append(times[night, "pg_dump | esker"][-1] / times[night, "sessions"][-1])
    stop.set()
    thread.join()
    size = run(["sh", "-c", "pg_dump shop | wc -c"], capture_output=True, text=True).stdout.strip()
    print(f"{args.data}: {int(size) / 1e6:.0f} MB of SQL, PostgreSQL {versions[-1]}, {os.cpu_count()} cores, "
          f"load {os.getloadavg()[0]:.1f}, {count[0]} transactions meanwhile")
    for night, list_of in ratios.items():
        one, other = (statistics.median(times[night, way]) for way in ("pg_dump | esker", "sessions"))
        print(f"{night}: pg_dump | esker {one:.2f} s, sessions {other:.2f} s: {statistics.median(list_of):.2f}x "
              f"(pairs: {', '.join(f'{ratio:.2f}' for ratio in list_of)})")
    run([args.esker, "-q", "restore", "latest", "--to", url.replace("/shop", "/copy")])
    total = sql("select sum(balance) from account", "copy")
    moved = sql("select count(*) = (select count(*) from log) from log", "copy")
    apart = sql("select count(*) from account a join (select id, 1000 - 5 * (select count(*) from log where a = id) + 5 * "
                "(select count(*) from log where b = id) wanted from account) w using (id) where balance <> wanted", "copy")
    print(f"restored while written: sum of balances {total} of 1000000, accounts that do not fit the log: {apart}")
    assert total == "1000000" and apart == "0" and moved == "t"
finally:
    server.terminate()
    server.wait()
    shutil.rmtree(scratch)
