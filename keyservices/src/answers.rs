//! What key services answer: from bytes to what was asked for, or to a refusal that says what to do. Nothing of an answer is trusted:
//! sizes are bounded before, names and numbers are checked here.

use crate::{Kind, Plain, Refusal, Sealed};
use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD, URL_SAFE_NO_PAD};
use chunkstore::storage::reach::said;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let read = serde_json::from_slice(body);
    read.map_err(|_| {
        Refusal::new(Kind::Away, "what it answers is not what such a service answers; is this its address?")
    })
}

fn decoded(text: String, alphabet: &GeneralPurpose) -> Result<Plain, Refusal> {
    let text = Zeroizing::new(text);
    let plain = alphabet.decode(text.trim_end_matches('=').as_bytes());
    // With padding, which the alphabet without it refuses.
    let plain = plain.or_else(|_| alphabet.decode(text.as_bytes()));
    plain.map(Zeroizing::new).map_err(|_| Refusal::new(Kind::Away, "what it answers is not base64"))
}

/// A status that says nothing about what was asked for.
fn is_trouble(status: u16) -> bool {
    status >= 500 || matches!(status, 300..=399 | 408 | 429)
}

fn trouble(status: u16, words: &str) -> Refusal {
    let more = match status {
        300..=399 => "; it sends elsewhere: name that place in the URL",
        429 => "; it asks for fewer requests: try again later",
        _ => "",
    };
    Refusal::new(Kind::Away, format!("it answers {status}{more} ({})", said(words)))
}

// --- AWS KMS: "Encrypt", "Decrypt" and "Common errors" of its API reference ---------------------

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AwsEncrypted {
    ciphertext_blob: String,
    key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AwsDecrypted {
    plaintext: String,
    key_id: String,
}

#[derive(Deserialize, Default)]
struct AwsError {
    #[serde(rename = "__type", default)]
    kind: String,
    #[serde(alias = "Message", default)]
    message: String,
}

/// The answer to `Encrypt`.
///
/// # Errors
///
/// It is none.
pub fn aws_encrypted(body: &[u8]) -> Result<Sealed, Refusal> {
    let AwsEncrypted { ciphertext_blob, key_id } = read(body)?;
    Ok(Sealed { key: key_id, wrapped: ciphertext_blob })
}

/// The answer to `Decrypt`: the key, and the bytes.
///
/// # Errors
///
/// It is none.
pub fn aws_decrypted(body: &[u8]) -> Result<(String, Plain), Refusal> {
    let AwsDecrypted { plaintext, key_id } = read(body)?;
    Ok((key_id, decoded(plaintext, &STANDARD)?))
}

/// What AWS KMS refuses, and why.
#[must_use]
pub fn aws_refused(status: u16, body: &[u8]) -> Refusal {
    let AwsError { kind, message } = serde_json::from_slice(body).unwrap_or_default();
    let name = kind.rsplit('#').next().unwrap_or_default();
    let (kind, meaning) = match name {
        "AccessDeniedException" => (
            Kind::Denied,
            "access denied: the key's policy or the user's lacks kms:Encrypt to add a slot, kms:Decrypt to open one",
        ),
        "NotFoundException" => (
            Kind::Lost,
            "there is no such key in this account and region: it was deleted, or the name is wrong",
        ),
        "DisabledException" => (Kind::Disabled, "the key is disabled: enable it, or use another key slot"),
        "KMSInvalidStateException" => (
            Kind::Lost,
            "the key is pending deletion, or in another state in which it cannot be used: cancel the deletion before it is \
             too late, or use another key slot",
        ),
        "InvalidCiphertextException" => (
            Kind::Context,
            "the wrapped secret was made for another repository or slot (encryption context), or was changed",
        ),
        "IncorrectKeyException" => (
            Kind::Context,
            "the wrapped secret is of another key: if an alias was moved, name the key that the slot has, by its ARN",
        ),
        "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "InvalidClientTokenId"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "ExpiredTokenException"
        | "SignatureDoesNotMatch" => {
            (Kind::NoLogin, "it does not accept the credentials of AWS that were given")
        }
        "InvalidKeyUsageException" | "InvalidArnException" | "ValidationException" => {
            (Kind::Unfit, "this is no key that wraps secrets: it takes a symmetric key for encryption")
        }
        _ if is_trouble(status) || is_away(name) => return trouble(status, &format!("{name} {message}")),
        _ => (Kind::Denied, "it refuses"),
    };
    let words = if message.is_empty() { name } else { &message };
    Refusal::new(kind, format!("{meaning} ({})", said(words)))
}

/// Errors of AWS that are answered with 400 and pass.
fn is_away(name: &str) -> bool {
    matches!(
        name,
        "ThrottlingException"
            | "LimitExceededException"
            | "KeyUnavailableException"
            | "DependencyTimeoutException"
            | "KMSInternalException"
            | "ServiceUnavailable"
            | "RequestExpired"
    )
}

// --- the transit engine of OpenBao and Vault -----------------------------------------------------

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct TransitEncrypted {
    ciphertext: String,
}

#[derive(Deserialize)]
struct TransitDecrypted {
    plaintext: String,
}

#[derive(Deserialize, Default)]
struct TransitErrors {
    #[serde(default)]
    errors: Vec<String>,
}

/// The answer to `encrypt`. Its text begins with the version of the key: `vault:v1:`.
///
/// # Errors
///
/// It is none.
pub fn transit_encrypted(body: &[u8]) -> Result<Sealed, Refusal> {
    let Data { data: TransitEncrypted { ciphertext } } = read(body)?;
    let version = ciphertext
        .split(':')
        .nth(1)
        .filter(|version| version.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok()));
    let Some(version) = version else {
        return Err(Refusal::new(Kind::Away, "what it answers has no version of a key in it"));
    };
    Ok(Sealed { key: version.to_owned(), wrapped: ciphertext })
}

/// The answer to `decrypt`.
///
/// # Errors
///
/// It is none.
pub fn transit_decrypted(body: &[u8]) -> Result<Plain, Refusal> {
    let Data { data: TransitDecrypted { plaintext } } = read(body)?;
    decoded(plaintext, &STANDARD)
}

/// What a transit engine refuses, and why. It has no codes: its words say what happened.
#[must_use]
pub fn transit_refused(status: u16, body: &[u8]) -> Refusal {
    let TransitErrors { errors } = serde_json::from_slice(body).unwrap_or_default();
    let words = errors.join("; ");
    let has = |part: &str| words.contains(part);
    let (kind, meaning) = if has("permission denied") || has("invalid token") || status == 403 {
        (
            Kind::Denied,
            "permission denied: the token has expired, or its policy lacks 'update' on encrypt/KEY to add a slot, on \
             decrypt/KEY to open one",
        )
    } else if has("missing client token") {
        (Kind::NoLogin, "it wants a token")
    } else if has("disallowed by policy") {
        (
            Kind::TooOld,
            "the key's min_decryption_version refuses the version that wrapped this secret: lower it, open, and make the \
             slot anew with 'esker key passwd --new-kms'",
        )
    } else if has("soft deleted") || has("soft-deleted") {
        (Kind::Lost, "the key is deleted, and can still be restored")
    } else if has("key not found") || has("no such key") {
        (Kind::Lost, "there is no such key: it was deleted, or the name is wrong")
    } else if has("message authentication failed") || has("invalid ciphertext") || has("unable to decrypt") {
        (
            Kind::Context,
            "the wrapped secret was made for another repository or slot (associated data), or was changed",
        )
    } else if has("associated_data")
        || has("associated data")
        || has("not supported for")
        || has("does not support")
    {
        (
            Kind::Unfit,
            "this key cannot bind what it wraps to a repository: it takes one of type aes256-gcm96, aes128-gcm96 or \
             chacha20-poly1305",
        )
    } else if has("no handler for route") || has("unsupported path") {
        (Kind::Lost, "there is no transit engine at this mount")
    } else if is_trouble(status) {
        return trouble(status, &words);
    } else if words.is_empty() {
        return Refusal::new(Kind::Away, format!("it answers {status}, and not as such a service does"));
    } else {
        (Kind::Denied, "it refuses")
    };
    Refusal::new(kind, format!("{meaning} ({})", said(&words)))
}

// --- Azure Key Vault: "wrapKey", "unwrapKey" and "Get Key" of its REST reference ------------------

#[derive(Deserialize)]
struct AzureResult {
    kid: String,
    value: String,
}

#[derive(Deserialize)]
struct AzureKey {
    key: AzureKeyId,
    #[serde(default)]
    attributes: AzureAttributes,
}

#[derive(Deserialize)]
struct AzureKeyId {
    kid: String,
    kty: String,
}

#[derive(Deserialize, Default)]
struct AzureAttributes {
    enabled: Option<bool>,
}

#[derive(Deserialize, Default)]
struct AzureErrors {
    #[serde(default)]
    error: AzureError,
}

#[derive(Deserialize, Default)]
struct AzureError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    innererror: Option<AzureInner>,
}

#[derive(Deserialize)]
struct AzureInner {
    #[serde(default)]
    code: String,
}

/// The answer to `wrapkey`.
///
/// # Errors
///
/// It is none.
pub fn azure_wrapped(body: &[u8]) -> Result<Sealed, Refusal> {
    let AzureResult { kid, value } = read(body)?;
    Ok(Sealed { key: kid, wrapped: value })
}

/// The answer to `unwrapkey`: the key's id, and the bytes.
///
/// # Errors
///
/// It is none.
pub fn azure_unwrapped(body: &[u8]) -> Result<(String, Plain), Refusal> {
    let AzureResult { kid, value } = read(body)?;
    Ok((kid, decoded(value, &URL_SAFE_NO_PAD)?))
}

/// The answer to a question for a key: the id of its newest version.
///
/// # Errors
///
/// It is none, or of a key that cannot be used.
pub fn azure_key(body: &[u8]) -> Result<String, Refusal> {
    let AzureKey { key, attributes } = read(body)?;
    if !key.kty.starts_with("RSA") {
        let why = format!(
            "the key is of type {}: it takes an RSA key",
            said(&key.kty).trim_start_matches("it says: ")
        );
        return Err(Refusal::new(Kind::Unfit, why));
    }
    if attributes.enabled == Some(false) {
        return Err(Refusal::new(Kind::Disabled, "the key is disabled: enable it, or use another key slot"));
    }
    Ok(key.kid)
}

/// What a vault refuses, and why.
#[must_use]
pub fn azure_refused(status: u16, body: &[u8]) -> Refusal {
    let AzureErrors { error: AzureError { code, message, innererror } } =
        serde_json::from_slice(body).unwrap_or_default();
    let inner = innererror.map(|inner| inner.code).unwrap_or_default();
    let has = |name: &str| code == name || inner == name;
    let words = if message.is_empty() { &code } else { &message };
    let (kind, meaning) = match status {
        _ if has("KeyDisabled") || message.contains("disabled key") => {
            (Kind::Disabled, "the key is disabled: enable it, or use another key slot")
        }
        _ if has("KeyNotYetValid") || has("KeyExpired") || message.contains("expired key") => {
            (Kind::Disabled, "the key is not valid now: it has expired, or is to be used later")
        }
        _ if has("ObjectIsDeletedButRecoverable") || has("ObjectIsBeingDeleted") => {
            (Kind::Lost, "the key is deleted, and can still be recovered: 'az keyvault key recover'")
        }
        404 => (Kind::Lost, "there is no such key: it was deleted, or the name is wrong"),
        401 => (Kind::NoLogin, "it does not accept the token"),
        403 => (
            Kind::Denied,
            "access denied: to add a slot takes the rights get and wrapKey, to open one unwrapKey (role 'Key Vault Crypto \
             Service Encryption User')",
        ),
        400 if has("BadParameter") => {
            (Kind::Context, "it cannot unwrap this: it was wrapped under another key, or was changed")
        }
        _ if is_trouble(status) => return trouble(status, words),
        _ if words.is_empty() => {
            return Refusal::new(Kind::Away, format!("it answers {status}, and not as such a service does"));
        }
        _ => (Kind::Denied, "it refuses"),
    };
    Refusal::new(kind, format!("{meaning} ({})", said(words)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Statuses and bodies as the services' own documents have them.
    #[test]
    fn refusals_are_told_apart() {
        for (status, body, kind) in [
            (400, r#"{"__type":"AccessDeniedException","Message":"no"}"#, Kind::Denied),
            (
                400,
                r#"{"__type":"com.amazonaws.kms#DisabledException","message":"x is disabled."}"#,
                Kind::Disabled,
            ),
            (400, r#"{"__type":"KMSInvalidStateException","message":"x is pending deletion."}"#, Kind::Lost),
            (400, r#"{"__type":"NotFoundException"}"#, Kind::Lost),
            (400, r#"{"__type":"InvalidCiphertextException"}"#, Kind::Context),
            (400, r#"{"__type":"IncorrectKeyException"}"#, Kind::Context),
            (400, r#"{"__type":"UnrecognizedClientException"}"#, Kind::NoLogin),
            (400, r#"{"__type":"ThrottlingException"}"#, Kind::Away),
            (500, r#"{"__type":"KMSInternalException"}"#, Kind::Away),
            (503, "<html>", Kind::Away),
            (302, "", Kind::Away),
        ] {
            assert_eq!(aws_refused(status, body.as_bytes()).kind, kind, "{status} {body}");
        }
        for (status, words, kind) in [
            (403, "permission denied", Kind::Denied),
            (400, "ciphertext or signature version is disallowed by policy (too old)", Kind::TooOld),
            (400, "encryption key not found", Kind::Lost),
            (400, "cipher: message authentication failed", Kind::Context),
            (404, "no handler for route \\\"transit/decrypt/k\\\"", Kind::Lost),
            (503, "Vault is sealed", Kind::Away),
            (500, "internal error", Kind::Away),
            (400, "something else", Kind::Denied),
        ] {
            let body = format!(r#"{{"errors":["1 error occurred:\n\t* {words}\n\n"]}}"#);
            let refusal = transit_refused(status, body.as_bytes());
            assert_eq!(refusal.kind, kind, "{status} {words}: {refusal}");
            assert!(!refusal.why.contains('\n'), "{refusal}");
        }
        assert_eq!(transit_refused(404, b"<html>").kind, Kind::Away);
        for (status, code, inner, kind) in [
            (403, "Forbidden", "KeyDisabled", Kind::Disabled),
            (403, "Forbidden", "ForbiddenByRbac", Kind::Denied),
            (404, "KeyNotFound", "", Kind::Lost),
            (409, "Conflict", "ObjectIsDeletedButRecoverable", Kind::Lost),
            (400, "BadParameter", "", Kind::Context),
            (401, "Unauthorized", "", Kind::NoLogin),
            (429, "Throttled", "", Kind::Away),
            (500, "InternalServerError", "", Kind::Away),
        ] {
            let body =
                format!(r#"{{"error":{{"code":"{code}","message":"m","innererror":{{"code":"{inner}"}}}}}}"#);
            assert_eq!(azure_refused(status, body.as_bytes()).kind, kind, "{status} {body}");
        }
    }

    #[test]
    fn answers_that_are_none_are_no_secrets() {
        for body in [&b""[..], b"<html>", b"{}", b"[]", b"null", b"{\"data\":null}", b"\xff\xfe"] {
            let kinds = [
                aws_encrypted(body).map(drop),
                aws_decrypted(body).map(drop),
                transit_encrypted(body).map(drop),
                transit_decrypted(body).map(drop),
                azure_wrapped(body).map(drop),
                azure_unwrapped(body).map(drop),
                azure_key(body).map(drop),
            ];
            assert!(kinds.iter().all(|read| matches!(read, Err(refusal) if refusal.is_away())), "{body:?}");
        }
        assert!(transit_encrypted(br#"{"data":{"ciphertext":"x"}}"#).is_err());
        assert!(aws_decrypted(br#"{"Plaintext":"*","KeyId":"k"}"#).is_err());
        let long = format!(r#"{{"errors":["{}"]}}"#, "x".repeat(9000));
        assert!(transit_refused(400, long.as_bytes()).why.len() < 600);
        assert_eq!(*aws_decrypted(br#"{"Plaintext":"AAE=","KeyId":"k"}"#).unwrap().1, [0, 1]);
        assert_eq!(*azure_unwrapped(br#"{"kid":"k","value":"AAE"}"#).unwrap().1, [0, 1]);
    }
}
