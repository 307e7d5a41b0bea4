"""Runs programs of Qdrant's official client, one after the other: loading it takes longer than most of them.

Each line of the input is a program as a JSON string; each line of the output is what it printed, and the trace of its failure
or null, as JSON. A program has `client` closed at its end, and leaves no names to the next.
"""

import contextlib
import io
import json
import os
import sys
import traceback
import warnings

import qdrant_client

warnings.simplefilter("ignore")
for line in sys.stdin:
    names, printed, failure = {"qdrant_client": qdrant_client}, io.StringIO(), None
    try:
        with contextlib.redirect_stdout(printed):
            exec(json.loads(line), names)
    except BaseException:
        failure = traceback.format_exc()
    if "client" in names:
        names["client"].close()
    print(json.dumps([printed.getvalue(), failure]), flush=True)
# The test has ended: whatever the client would still put in order keeps nobody waiting.
os._exit(0)
