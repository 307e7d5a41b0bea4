//! Credentials of AWS and what goes with them, as its own tools find them: keys of the environment, a role that a token of another
//! issuer stands for, a profile, a container's role, the machine's. docs/places.md has the order.

use super::identities::{Identities, none_empty, proved};
use super::{Details, without_credentials};
use crate::exit::Failure;
use crate::variables::{environment, environment_path, environment_text};
use chunkstore::storage::HttpOptions;
use chunkstore::storage::identity::aws::{Identity, METADATA, METADATA_IPV6, Proof, WAYS, Way};
use chunkstore::storage::s3::S3Options;
use zeroize::Zeroizing;

const ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
const TOKEN_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
const ROLE: &str = "AWS_ROLE_ARN";
/// What AWS's own log calls us, unless `AWS_ROLE_SESSION_NAME` says otherwise.
const SESSION: &str = "esker";

static IDENTITIES: Identities<Way, Identity> = Identities::new();

/// The credentials of AWS that there are for another service of it, `what`. Nobody is asked for a role yet.
pub(crate) fn amazon(region: &str, http: HttpOptions, what: &str) -> Result<S3Options, Failure> {
    let details = Details { http, region: Some(region.to_owned()), ..Details::default() };
    // An endpoint for S3 means nothing there.
    let options = options(Some(format!("https://{region}")), String::new(), String::new(), &details)?;
    identified(&options, what)
}

pub(super) fn options(
    endpoint: Option<String>,
    bucket: String,
    prefix: String,
    details: &Details,
) -> Result<S3Options, Failure> {
    let region = details.region.clone().or_else(|| environment("AWS_REGION"));
    let endpoint = endpoint.or_else(|| environment("AWS_ENDPOINT_URL"));
    let mut options = S3Options {
        endpoint: endpoint.unwrap_or_default(),
        bucket,
        prefix,
        region: region.or_else(|| environment("AWS_DEFAULT_REGION")).unwrap_or_default(),
        access_key_id: environment(ID).unwrap_or_default(),
        secret_access_key: environment(SECRET).unwrap_or_default(),
        session_token: environment("AWS_SESSION_TOKEN").unwrap_or_default(),
        identity: None,
        lock_governance: details.lock_governance,
        http: details.http.clone(),
    };
    // A profile that is named goes before the environment; one that is the default, after it.
    let named = details.profile.clone().or_else(|| environment("AWS_PROFILE"));
    if details.profile.is_some() || options.access_key_id.is_empty() {
        let wanted = named.is_some();
        let has_keys = details.profile.is_some() || environment_path(TOKEN_FILE).is_none();
        read_profile(&mut options, &named.unwrap_or_else(|| "default".into()), wanted, has_keys)?;
    }
    without_credentials(&options.endpoint)?;
    Ok(options)
}

/// Lines of a profile that say who we are, and of which esker reads the first two only, together.
const OTHER_WAYS: [&str; 7] = [
    "aws_access_key_id",
    "aws_secret_access_key",
    "role_arn",
    "credential_process",
    "sso_session",
    "sso_start_url",
    "web_identity_token_file",
];

/// Region, endpoint and, if they are wanted, keys of a profile, from the files of the AWS command line.
fn read_profile(options: &mut S3Options, profile: &str, wanted: bool, has_keys: bool) -> Result<(), Failure> {
    let home = crate::user::home_folder().unwrap_or_default().join(".aws");
    let file = |name: &str, variable: &str| environment_path(variable).unwrap_or_else(|| home.join(name));
    let credentials = file("credentials", "AWS_SHARED_CREDENTIALS_FILE");
    let config = file("config", "AWS_CONFIG_FILE");
    let section = if profile == "default" { profile.to_owned() } else { format!("profile {profile}") };
    let (mut found, mut has_both, mut other) = (false, false, None);
    for (path, section) in [(&config, section.as_str()), (&credentials, profile)] {
        let Ok(ini) = ini::Ini::load_from_file(path) else { continue };
        let Some(values) = ini.section(Some(section)) else { continue };
        found = true;
        let value = |key: &str| values.get(key).map(str::to_owned);
        if let (true, Some(id), Some(secret)) =
            (has_keys, value("aws_access_key_id"), value("aws_secret_access_key"))
        {
            (options.access_key_id, options.secret_access_key) = (id, secret);
            options.session_token = value("aws_session_token").unwrap_or_default();
            has_both = true;
        }
        let named = OTHER_WAYS.iter().find(|key| values.contains_key(key));
        other = other.or(named.map(|key| (*key, path)));
        if options.region.is_empty() {
            options.region = value("region").unwrap_or_default();
        }
        if options.endpoint.is_empty() {
            options.endpoint = value("endpoint_url").unwrap_or_default();
        }
    }
    if wanted && found && has_keys && !has_both && other.is_none() && !options.access_key_id.is_empty() {
        return Err(Failure::new(format!(
            "profile '{profile}' has no keys in {} or {}: give it aws_access_key_id and aws_secret_access_key, or leave \
             'profile' out to use those of {ID}",
            credentials.display(),
            config.display()
        )));
    }
    if let (true, false, Some((key, path))) = (has_keys, has_both, other) {
        // Another identity in its place would reach other data, or nothing.
        return Err(Failure::new(format!(
            "profile '{profile}' in {} has {key}, but not both keys, and esker reads no other way from a profile: give it \
             aws_access_key_id and aws_secret_access_key, or name another one",
            path.display()
        )));
    }
    if found || !wanted {
        return Ok(());
    }
    Err(Failure::new(format!(
        "there is no profile '{profile}' in {} or {}",
        credentials.display(),
        config.display()
    )))
}

/// The options of a store with what proves who we are, which is asked for and comes before anything is asked of the store: without
/// it every request would fail for itself.
pub(super) fn proven(options: &S3Options) -> Result<S3Options, Failure> {
    const WHAT: &str = "S3";
    let options = identified(options, WHAT)?;
    if let Some(identity) = &options.identity {
        proved(WHAT, "", identity.prove(WHAT, &options.http.stop))?;
    }
    Ok(options)
}

/// The options with a role if there is no key; `what` is what the credentials are for.
fn identified(options: &S3Options, what: &str) -> Result<S3Options, Failure> {
    let missing = |why: String| Failure::new(format!("no credentials for {what}: {why}"));
    let incomplete = |why: String| missing(format!("{WAYS} ({why})"));
    match (options.access_key_id.is_empty(), options.secret_access_key.is_empty()) {
        (false, false) => return Ok(options.clone()),
        (false, true) => {
            return Err(incomplete(format!("there is a key, but no secret: {SECRET} is not set")));
        }
        (true, false) => return Err(incomplete(format!("there is a secret, but no key: {ID} is not set"))),
        (true, true) => none_empty(&[ID, SECRET]).map_err(incomplete)?,
    }
    let way = way(&options.region).map_err(missing)?;
    let identity = IDENTITIES.of(way, &options.http.authorities, |way| {
        Identity::new(way, &options.http).map_err(|why| missing(why.to_string()))
    })?;
    Ok(S3Options { identity: Some(identity), ..options.clone() })
}

/// The way to a role that the environment names; without one, the machine's. The order is that of the SDKs: "Credential provider chain"
/// (AWS SDK for Java 2.x), `create_credential_resolver` (botocore).
fn way(region: &str) -> Result<Way, String> {
    let text = |name: &str| environment_text(name).map_err(|failure| failure.message);
    if let Some(token_file) = environment_path(TOKEN_FILE) {
        let role = text(ROLE)?.ok_or_else(|| format!("{TOKEN_FILE} is set, but not {ROLE}"))?;
        let session = text("AWS_ROLE_SESSION_NAME")?.unwrap_or_else(|| SESSION.to_owned());
        let sts = text("AWS_ENDPOINT_URL_STS")?.unwrap_or_else(|| Way::sts_of(region));
        return Ok(Way::WebIdentity { token_file, role, session, sts });
    }
    let proof = || {
        Ok::<_, String>(match environment_path("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(file) => Proof::File(file),
            None => text("AWS_CONTAINER_AUTHORIZATION_TOKEN")?
                .map_or(Proof::None, |token| Proof::Token(Zeroizing::new(token))),
        })
    };
    if let Some(relative) = text("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")? {
        return Way::of_container(&relative, proof()?).map_err(|why| why.to_string());
    }
    if let Some(url) = text("AWS_CONTAINER_CREDENTIALS_FULL_URI")? {
        return Ok(Way::Container { url, proof: proof()? });
    }
    if text("AWS_EC2_METADATA_DISABLED")?.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        let tried = "tried: the environment, the profile; AWS_EC2_METADATA_DISABLED is true";
        return Err(format!("{WAYS} ({tried})"));
    }
    let mode = text("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")?;
    let is_ipv6 = mode.is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"));
    let own = if is_ipv6 { METADATA_IPV6 } else { METADATA };
    let endpoint = text("AWS_EC2_METADATA_SERVICE_ENDPOINT")?.unwrap_or_else(|| own.to_owned());
    Ok(Way::Instance { endpoint })
}
