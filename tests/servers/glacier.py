"""An S3 server with frozen classes that behave: moto's public server, and what it leaves out of RestoreObject.

As the S3 API reference has it: a restore takes its time (RESTORE_SECONDS here), the copy expires after its days
(a day lasts DAY_SECONDS), and asking again meanwhile is answered with 409 RestoreAlreadyInProgress. Every request
is logged to LOG: method, path with query, status, length of the body sent, storage class asked for.

With GATE, nothing is thawed before that file exists, however long it takes.

Usage: RESTORE_SECONDS=3 DAY_SECONDS=4 PORT=15001 LOG=requests.log python glacier.py
"""

import datetime
import os
import threading
import time

import moto.server
from moto.core.utils import utcnow
from moto.s3 import exceptions, models

RESTORE_SECONDS = float(os.environ.get("RESTORE_SECONDS", "3"))
DAY_SECONDS = float(os.environ.get("DAY_SECONDS", "86400"))
GATE = os.environ.get("GATE")


class InProgress(exceptions.S3ClientError):
    code = 409

    def __init__(self):
        super().__init__("RestoreAlreadyInProgress", "Object restore is already in progress")


def asked_at(key):
    return getattr(key, "asked_at", None)


def status(key):
    """None, IN_PROGRESS or RESTORED, by the clock since the object was asked for."""
    if asked_at(key) is None:
        return None
    if GATE and not os.path.exists(GATE):
        return "IN_PROGRESS"
    return "IN_PROGRESS" if time.time() - key.asked_at < RESTORE_SECONDS else "RESTORED"


def restore(key, days):
    if asked_at(key) is None:
        key.asked_at = time.time()
    ready = datetime.timedelta(seconds=RESTORE_SECONDS + days * DAY_SECONDS)
    key._expiry = utcnow() + ready


plain_response = models.FakeKey.response_dict.fget


def response(key):
    """Headers of an answer; a copy whose days are over is frozen again."""
    if asked_at(key) is not None and key._expiry is not None and utcnow() > key._expiry:
        key.asked_at, key._expiry = None, None
    return plain_response(key)


models.FakeKey.restore = restore
models.FakeKey.status = property(status, lambda key, value: None)
models.FakeKey.response_dict = property(response)
plain_restore_object = models.S3Backend.restore_object


def restore_object(backend, bucket_name, key_name, *args, **kwargs):
    key = backend.get_object(bucket_name, key_name)
    if key is not None:
        response(key)
        if status(key) == "IN_PROGRESS":
            raise InProgress()
    return plain_restore_object(backend, bucket_name, key_name, *args, **kwargs)


models.S3Backend.restore_object = restore_object


def logged(app, log):
    def run(environ, start_response):
        query = environ.get("QUERY_STRING", "")
        what = environ["PATH_INFO"] + ("?" + query if query else "")
        place = environ.get("HTTP_X_AMZ_STORAGE_CLASS", "-")
        taken = {}

        def start(status, headers, *rest):
            taken["status"] = status.split()[0]
            taken["len"] = dict((name.lower(), value) for name, value in headers).get("content-length", "0")
            return start_response(status, headers, *rest)

        body = app(environ, start)
        log.write(f"{environ['REQUEST_METHOD']} {what} {taken.get('status')} {taken.get('len')} {place}\n")
        log.flush()
        return body

    return run


WRITES = threading.Lock()


def one_at_a_time(app):
    """Moto looks whether an object is there, and puts it, in two steps: of two conditional writers both may win."""

    def run(environ, start_response):
        if environ["REQUEST_METHOD"] != "PUT":
            return app(environ, start_response)
        with WRITES:
            return list(app(environ, start_response))

    return run


plain_run = moto.server.run_simple


def run_simple(host, port, app, **kwargs):
    log = os.environ.get("LOG")
    app = one_at_a_time(app)
    plain_run(host, port, logged(app, open(log, "a")) if log else app, **kwargs)


moto.server.run_simple = run_simple
moto.server.main(["-H", "127.0.0.1", "-p", os.environ["PORT"]])
