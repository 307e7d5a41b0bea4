#!/usr/bin/env python3
"""Changes the code in one place at a time, as cargo-mutants proposes, and sees whether a test fails.

    mutants.py N/M [--limit n]      every M-th mutant, starting with the N-th

Takes the mutants from `cargo mutants --list` (.cargo/mutants.toml says of which files), but runs the tests itself: those
of four packages for each mutant, without RocksDB, in a clone and a target folder that stay in the cache.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

PACKAGES = ["chunkstore", "engine", "fuzzing", "simulation"]
BUILD = ["cargo", "test", "--quiet", "--profile", "mutants", "--no-default-features"]
for package in PACKAGES:
    BUILD += ["--package", package]
TIMEOUT_S = 900

root = pathlib.Path(__file__).resolve().parent.parent
cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "esker/mutants"


def run(command, timeout=None, **options):
    """The command's exit code; None if it took too long. It and all that it started are gone then."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             start_new_session=True, **options)
    try:
        output, _ = child.communicate(timeout=timeout)
        return child.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, 9)
        child.wait()
        return None, ""


def main():
    first, step = (int(number) for number in sys.argv[1].split("/"))
    limit = int(sys.argv[sys.argv.index("--limit") + 1]) if "--limit" in sys.argv else None
    source = cache / "source"
    subprocess.run(["rm", "-rf", source], check=True)
    cache.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "clone", "--quiet", root, source], check=True)
    listed = subprocess.run(["cargo", "mutants", "--list", "--json", "--diff"], cwd=source, check=True,
                            capture_output=True, text=True).stdout
    mutants = json.loads(listed)[first::step][:limit]
    env = {**os.environ, "CARGO_TARGET_DIR": str(cache / "target"), "ESKER_SEEDS": "120", "RUST_BACKTRACE": "0"}
    start = time.time()
    code, output = run(BUILD, cwd=source, env=env)
    if code != 0:
        sys.exit("the tests fail before anything is changed:\n" + output[-4000:])
    print(f"{len(mutants)} mutants; unchanged, building and testing took {time.time() - start:.0f} s", flush=True)
    counts = {"caught": 0, "timeout": 0, "missed": 0, "unviable": 0}
    for mutant in mutants:
        patch = ["patch", "--quiet", mutant["file"]]
        start = time.time()
        subprocess.run(patch, input=mutant["diff"], cwd=source, check=True, text=True)
        code, _ = run([*BUILD, "--no-run"], cwd=source, env=env)
        if code != 0:
            verdict = "unviable"
        else:
            code, _ = run(BUILD, timeout=TIMEOUT_S, cwd=source, env=env)
            verdict = {0: "missed", None: "timeout"}.get(code, "caught")
        counts[verdict] += 1
        print(f"{verdict:8} {time.time() - start:4.0f} s  {mutant['name']}", flush=True)
        subprocess.run([*patch, "--reverse"], input=mutant["diff"], cwd=source, check=True, text=True)
    caught = counts["caught"] + counts["timeout"]
    viable = caught + counts["missed"]
    print(f"{caught} of {viable} caught ({100 * caught / max(viable, 1):.1f} %), {counts['timeout']} of them by never "
          f"ending, {counts['unviable']} did not compile")


main()
