//! What the services that say who we are answer, as their own documents have it. Whatever else comes is no proof.

use super::NoIdentity;
use crate::storage::reach::said;
use jiff::{SignedDuration, Timestamp};
use object_store::aws::AwsCredential;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// Longest time for which a token or credentials are used, in seconds, whatever their end is said to be: a day.
const LONGEST: i64 = 24 * 3600;
/// How long credentials of AWS are used that have no end, in seconds: that of a container's may be left out.
const WITHOUT_END: i64 = 15 * 60;

fn strange<E>(_: E) -> NoIdentity {
    NoIdentity::away("what it answers is not what such a service answers; is this its address?")
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, NoIdentity> {
    serde_json::from_slice(body).map_err(strange)
}

fn after(seconds: i64) -> Timestamp {
    Timestamp::now().saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// Whether it can be sent in a header.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Of an instance: "Retrieve security credentials from instance metadata" (Amazon EC2 user guide); of a container: "Container
/// credential provider" (AWS SDKs and Tools reference guide).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfMachine {
    /// `Success`; a container's have none.
    #[serde(alias = "code")]
    code: Option<String>,
    #[serde(alias = "message")]
    message: Option<String>,
    #[serde(default)]
    access_key_id: String,
    #[serde(default)]
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<String>,
}

/// `AssumeRoleWithWebIdentity` (AWS STS API reference).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Assumed {
    assume_role_with_web_identity_result: AssumedResult,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AssumedResult {
    credentials: OfSession,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfSession {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    expiration: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Problem {
    error: ProblemError,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ProblemError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

fn credential(
    key_id: String,
    secret_key: String,
    token: Option<String>,
    expiration: Option<&str>,
) -> Result<(AwsCredential, Timestamp), NoIdentity> {
    let token = token.filter(|token| !token.is_empty());
    if ![Some(&key_id), Some(&secret_key), token.as_ref()].into_iter().flatten().all(|text| is_plain(text)) {
        return Err(NoIdentity::away("what it gives are no credentials"));
    }
    let until = expiration.map(|text| text.parse().map_err(strange)).transpose()?;
    let until = until.map_or_else(|| after(WITHOUT_END), |until: Timestamp| until.min(after(LONGEST)));
    Ok((AwsCredential { key_id, secret_key, token }, until))
}

/// Credentials of a role, as an instance's or a container's service gives them, and their end.
///
/// # Errors
///
/// It gives none.
pub fn aws_role(body: &[u8]) -> Result<(AwsCredential, Timestamp), NoIdentity> {
    let of: OfMachine = json(body)?;
    if let Some(code) = of.code.as_deref().filter(|code| *code != "Success") {
        let words = of.message.map_or_else(|| code.to_owned(), |message| format!("{code}: {message}"));
        return Err(NoIdentity::refused(format!("it gives none ({})", said(&words))));
    }
    credential(of.access_key_id, of.secret_access_key, of.token, of.expiration.as_deref())
}

/// What a service of a machine says of a refusal; may be empty.
pub fn aws_role_refused(body: &[u8]) -> String {
    let of: Option<OfMachine> = serde_json::from_slice(body).ok();
    of.and_then(|of| of.message.or(of.code)).map(|words| said(&words)).unwrap_or_default()
}

/// Credentials of a role that a token of another issuer stands for, and their end.
///
/// # Errors
///
/// It gives none.
pub fn aws_assumed(body: &[u8]) -> Result<(AwsCredential, Timestamp), NoIdentity> {
    let text = std::str::from_utf8(body).map_err(strange)?;
    let of: Assumed = quick_xml::de::from_str(text).map_err(strange)?;
    let of = of.assume_role_with_web_identity_result.credentials;
    credential(of.access_key_id, of.secret_access_key, Some(of.session_token), Some(&of.expiration))
}

/// The code of a refusal of AWS STS, and what it says; both may be empty.
pub fn aws_assumed_refused(body: &[u8]) -> (String, String) {
    let of: Option<Problem> =
        std::str::from_utf8(body).ok().and_then(|text| quick_xml::de::from_str(text).ok());
    let Some(Problem { error }) = of else { return (String::new(), String::new()) };
    let words = format!("{}: {}", error.code, error.message);
    (error.code, said(&words))
}

#[derive(Deserialize)]
struct AzureToken {
    access_token: String,
    /// Seconds: a number, or a number as text.
    expires_in: Option<serde_json::Value>,
    /// Seconds since 1970: all that App Service gives.
    expires_on: Option<serde_json::Value>,
}

/// A token of Azure, and its end: "OAuth 2.0 client credentials flow", and "How to use managed identities", of machines and
/// of App Service.
///
/// # Errors
///
/// It is none.
pub fn azure_token(body: &[u8]) -> Result<(Zeroizing<String>, Timestamp), NoIdentity> {
    let AzureToken { access_token, expires_in, expires_on } = json(body)?;
    let token = Zeroizing::new(access_token);
    if !is_plain(&token) {
        return Err(NoIdentity::away("what it gives is no token"));
    }
    let number = |value: Option<serde_json::Value>| match value {
        Some(serde_json::Value::Number(number)) => number.as_i64(),
        Some(serde_json::Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    let end = match (number(expires_in), number(expires_on)) {
        (Some(seconds), _) => after(seconds.clamp(0, LONGEST)),
        (None, Some(second)) => Timestamp::from_second(second).unwrap_or_else(|_| after(0)),
        (None, None) => after(0),
    };
    Ok((token, end.min(after(LONGEST))))
}

/// What an answer of OAuth 2.0 says of a refusal; may be empty.
pub fn azure_refused(body: &[u8]) -> String {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let of = |name: &str| answer[name].as_str().filter(|words| !words.is_empty());
    of("error_description").or_else(|| of("error")).map(said).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bodies as the services' own documents have them.
    #[test]
    fn what_services_give_is_read() {
        let role =
            br#"{"Code":"Success","LastUpdated":"2012-04-26T16:39:16Z","Type":"AWS-HMAC","AccessKeyId":"AS",
            "SecretAccessKey":"s/+","Token":"t==","Expiration":"2017-05-17T15:09:54Z"}"#;
        let (credential, until) = aws_role(role).unwrap();
        assert_eq!((&*credential.key_id, &*credential.secret_key), ("AS", "s/+"));
        assert_eq!(
            (credential.token.as_deref(), until.to_string()),
            (Some("t=="), "2017-05-17T15:09:54Z".into())
        );
        let (_, until) = aws_role(br#"{"AccessKeyId":"A","SecretAccessKey":"s"}"#).unwrap();
        assert!(until > Timestamp::now());
        let assumed = b"<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">
            <AssumeRoleWithWebIdentityResult><Audience>a</Audience><Credentials><SessionToken>st</SessionToken>
            <SecretAccessKey>s</SecretAccessKey><Expiration>2014-10-24T23:00:23Z</Expiration><AccessKeyId>AS</AccessKeyId>
            </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";
        assert_eq!(aws_assumed(assumed).unwrap().0.token.as_deref(), Some("st"));
        let refused = b"<ErrorResponse><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code><Message>No</Message></Error></ErrorResponse>";
        assert_eq!(
            aws_assumed_refused(refused),
            ("InvalidIdentityToken".into(), "it says: InvalidIdentityToken: No".into())
        );
        assert_eq!(
            aws_role_refused(br#"{"code":"Denied","message":"no such task"}"#),
            "it says: no such task"
        );
        for (body, least, most) in [
            (r#"{"access_token":"a","expires_in":"99"}"#.to_owned(), 90, 99),
            (r#"{"access_token":"a","expires_in":3599,"expires_on":"1"}"#.to_owned(), 3590, 3599),
            (format!(r#"{{"access_token":"a","expires_on":"{}"}}"#, after(500).as_second()), 490, 500),
            (r#"{"access_token":"a","expires_in":99999999999}"#.to_owned(), LONGEST - 9, LONGEST),
            (r#"{"access_token":"a","expires_on":99999999999}"#.to_owned(), LONGEST - 9, LONGEST),
            (r#"{"access_token":"a"}"#.to_owned(), -9, 0),
        ] {
            let left = azure_token(body.as_bytes()).unwrap().1.duration_since(Timestamp::now()).as_secs();
            assert!((least..=most).contains(&left), "{body}: {left}");
        }
        assert_eq!(
            azure_refused(br#"{"error":"invalid_client","error_description":"AADSTS7000215"}"#),
            "it says: AADSTS7000215"
        );
    }

    #[test]
    fn all_else_is_no_proof() {
        let bodies: [&[u8]; 9] = [
            b"",
            b"\xff",
            b"<html>",
            b"{}",
            b"[]",
            br#"{"AccessKeyId":"A","SecretAccessKey":"a b"}"#,
            br#"{"AccessKeyId":"A","SecretAccessKey":"a","Expiration":"soon"}"#,
            br#"{"access_token":"a\nb","expires_in":1}"#,
            br#"{"access_token":7}"#,
        ];
        for body in bodies {
            let tries = [aws_role(body).map(drop), aws_assumed(body).map(drop), azure_token(body).map(drop)];
            assert!(tries.iter().all(|read| read.as_ref().is_err_and(|why| why.is_away)), "{body:?}");
        }
        // An instance without a role that it may assume.
        let failed = aws_role(
            br#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"EC2 cannot assume the role\u001b"}"#,
        );
        let why = failed.unwrap_err();
        assert!(
            !why.is_away && why.why.contains("EC2 cannot assume the role ") && !why.why.contains('\u{1b}')
        );
    }
}
