"""AWS KMS: moto's server, and what it leaves out: keys that are disabled or pending deletion refuse to encrypt and decrypt.

As the API reference of AWS KMS has it: DisabledException for a disabled key, KMSInvalidStateException for one whose deletion is
scheduled. Every KMS request is logged to LOG: the action, and the KeyId and EncryptionContext that it named.

Usage: PORT=15001 LOG=requests.log python kms.py
"""

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


def logged(action):
    plain = getattr(responses.KmsResponse, action)

    def run(self):
        asked = json.loads(self.body)
        with open(os.environ["LOG"], "a") as log:
            log.write(json.dumps([action, asked.get("KeyId"), asked.get("EncryptionContext")]) + "\n")
        return plain(self)

    setattr(responses.KmsResponse, action, run)


if os.environ.get("LOG"):
    logged("encrypt")
    logged("decrypt")
moto.server.main(["-H", "127.0.0.1", "-p", os.environ["PORT"]])
