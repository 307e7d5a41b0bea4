"""AWS KMS: moto's server, and what it leaves out: keys that are disabled or pending deletion refuse to encrypt and decrypt.

As the API reference of AWS KMS has it: DisabledException for a disabled key, KMSInvalidStateException for one whose deletion is
scheduled. Requests to encrypt and decrypt must be signed with SECRET ("Signature Version 4 signing process"), else
InvalidSignatureException. Every such request is logged to LOG: the action, and the KeyId and EncryptionContext that it named.

Usage: PORT=15001 LOG=requests.log SECRET=x python kms.py
"""

import hashlib
import hmac
import json
import os

import moto.server
from moto.kms import models, responses
from moto.kms.exceptions import JsonRESTError

STATES = {
    "Disabled": ("DisabledException", "is disabled."),
    "PendingDeletion": ("KMSInvalidStateException", "is pending deletion."),
}


def must_be_usable(backend, name):
    key = backend.keys[backend.any_id_to_key_id(name)]
    if key.key_state in STATES:
        kind, words = STATES[key.key_state]
        raise JsonRESTError(kind, f"{key.arn} {words}")


plain_encrypt = models.KmsBackend.encrypt
plain_decrypt = models.KmsBackend.decrypt


def encrypt(self, key_id, plaintext, encryption_context):
    must_be_usable(self, key_id)
    return plain_encrypt(self, key_id, plaintext, encryption_context)


def decrypt(self, ciphertext_blob, encryption_context, *args, **kwargs):
    plaintext, arn = plain_decrypt(self, ciphertext_blob, encryption_context, *args, **kwargs)
    must_be_usable(self, arn)
    return plaintext, arn


models.KmsBackend.encrypt = encrypt
models.KmsBackend.decrypt = decrypt


def signature(headers, body, credential, names):
    """What the signature of a POST to / is to be."""
    _, date, region, service, end = credential.split("/")
    digest = hashlib.sha256(body).hexdigest()
    lines = [f"{name}:{headers[name].strip()}" for name in names]
    canonical = "\n".join(["POST", "/", "", *lines, "", ";".join(names), digest])
    scope = "/".join([date, region, service, end])
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, hashed])
    key = b"AWS4" + os.environ["SECRET"].encode()
    for part in (date, region, service, end):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def must_be_signed(response):
    headers = {name.lower(): value for name, value in response.headers.items()}
    fields = headers.get("authorization", "").removeprefix("AWS4-HMAC-SHA256 ").split(", ")
    given = dict(field.split("=", 1) for field in fields)
    names = given["SignedHeaders"].split(";")
    body = response.body.encode() if isinstance(response.body, str) else response.body
    is_whole = {"host", "x-amz-date", "x-amz-target"} <= set(names) and "/kms/" in given["Credential"]
    if not is_whole or given["Signature"] != signature(headers, body, given["Credential"], names):
        raise JsonRESTError("InvalidSignatureException", "The request signature we calculated does not match.")


def logged(action):
    plain = getattr(responses.KmsResponse, action)

    def run(self):
        must_be_signed(self)
        asked = json.loads(self.body)
        with open(os.environ["LOG"], "a") as log:
            log.write(json.dumps([action, asked.get("KeyId"), asked.get("EncryptionContext")]) + "\n")
        return plain(self)

    setattr(responses.KmsResponse, action, run)


logged("encrypt")
logged("decrypt")
moto.server.main(["-H", "127.0.0.1", "-p", os.environ["PORT"]])
