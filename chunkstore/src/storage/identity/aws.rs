//! Roles of AWS: of a token of another issuer (EKS: IAM roles for service accounts), of a container (ECS; EKS: Pod Identity), and
//! of an instance (EC2).

use super::asking::{Ask, Asking, Reply, Site, address, is_near, safe_address, token_in};
use super::kept::Kept;
use super::{NoIdentity, answers, prove};
use crate::storage::{HttpOptions, StorageResult};
use http::Method;
use jiff::Timestamp;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use reqwest::Url;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use zeroize::Zeroizing;

/// Where an instance asks who it is ("Use the Instance Metadata Service", Amazon EC2 user guide).
pub const METADATA: &str = "http://169.254.169.254";
/// The same over IPv6.
pub const METADATA_IPV6: &str = "http://[fd00:ec2::254]";
/// Where a container of ECS does ("Container credential provider", AWS SDKs and Tools reference guide).
const CONTAINER: &str = "http://169.254.170.2";

/// What is to be set where nothing is, for messages.
pub const WAYS: &str = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile in ~/.aws, AWS_WEB_IDENTITY_TOKEN_FILE and \
    AWS_ROLE_ARN, or AWS_CONTAINER_CREDENTIALS_FULL_URI, or give this machine a role";

/// How AWS is told who we are.
#[derive(Clone, PartialEq, Eq)]
pub enum Way {
    /// A file with a token of another issuer, which is written anew from time to time, stands for a role.
    WebIdentity {
        /// `AWS_WEB_IDENTITY_TOKEN_FILE`.
        token_file: PathBuf,
        /// `AWS_ROLE_ARN`.
        role: String,
        /// `AWS_ROLE_SESSION_NAME`: what AWS's own log calls us.
        session: String,
        /// The URL of AWS STS.
        sts: String,
    },
    /// A container's role, at `AWS_CONTAINER_CREDENTIALS_FULL_URI` or where [`Way::of_container`] says.
    Container {
        /// The URL.
        url: String,
        /// What the service wants to be shown.
        proof: Proof,
    },
    /// The instance's role, at its metadata service.
    Instance {
        /// The URL.
        endpoint: String,
    },
}

/// What goes to a container's service.
#[derive(Clone, PartialEq, Eq)]
pub enum Proof {
    /// Nothing.
    None,
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN`.
    Token(Zeroizing<String>),
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`.
    File(PathBuf),
}

impl Way {
    /// By `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`.
    ///
    /// # Errors
    ///
    /// It is no path: with it, another host would be meant.
    pub fn of_container(relative: &str, proof: Proof) -> Result<Self, NoIdentity> {
        if !relative.starts_with('/') {
            let why = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is to begin with '/'";
            return Err(NoIdentity::refused(why));
        }
        Ok(Self::Container { url: format!("{CONTAINER}{relative}"), proof })
    }

    /// AWS STS in a region ("AWS STS endpoints and quotas", AWS General Reference).
    #[must_use]
    pub fn sts_of(region: &str) -> String {
        let region = if region.is_empty() { "us-east-1" } else { region };
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        format!("https://sts.{region}.{domain}")
    }

    /// Who gives the credentials.
    fn giver(&self) -> &'static str {
        match self {
            Self::WebIdentity { .. } => "AWS STS gives none for AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN",
            Self::Container { .. } => "the container's service gives none",
            Self::Instance { .. } => "this machine's metadata service",
        }
    }

    /// The URL that is asked first.
    fn url(&self) -> Result<Url, NoIdentity> {
        match self {
            Self::WebIdentity { sts, .. } => safe_address(sts, "AWS_ENDPOINT_URL_STS"),
            Self::Container { url, .. } => {
                let name = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
                let url = address(url, name)?;
                // As the SDKs of AWS: in clear only to this machine and to the addresses of ECS and EKS.
                let is_safe = url.scheme() == "https" || is_near(&url);
                is_safe.then_some(url).ok_or_else(|| {
                    NoIdentity::refused(format!(
                        "{name} is to begin with https://, or to be on this machine or a link-local address"
                    ))
                })
            }
            Self::Instance { endpoint } => address(endpoint, "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
        }
    }
}

/// A role of AWS, as one of the ways gives it.
pub struct Identity {
    way: Way,
    url: Url,
    asking: Asking,
    kept: Kept<AwsCredential>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a role of AWS by {}", self.url.host_str().unwrap_or_default())
    }
}

impl Identity {
    /// Nobody is asked yet. Of `http`, authorities and the user agent count.
    ///
    /// # Errors
    ///
    /// A URL of the way is none to which a proof may go.
    pub fn new(way: Way, http: &HttpOptions) -> Result<Self, NoIdentity> {
        let url = way.url()?;
        Ok(Self { way, url, asking: Asking::new(http), kept: Kept::default() })
    }

    /// Waits until there are credentials, or `stop` is set; `of` is what they are for.
    ///
    /// # Errors
    ///
    /// There are none.
    pub fn prove(&self, of: &str, stop: &Arc<AtomicBool>) -> StorageResult<()> {
        prove(of, stop, self.credential())
    }

    async fn credential(&self) -> Result<Arc<AwsCredential>, NoIdentity> {
        let asked = self.kept.get(|| self.ask()).await;
        asked.map_err(|why| {
            let is_last = matches!(self.way, Way::Instance { .. });
            let why_not = format!("{}: {}", self.way.giver(), why.why);
            let told = if is_last {
                format!("{WAYS} (tried: the environment, the profile, {why_not})")
            } else {
                why_not
            };
            NoIdentity { why: told, ..why }
        })
    }

    async fn ask(&self) -> Result<(AwsCredential, Timestamp), NoIdentity> {
        match &self.way {
            Way::WebIdentity { token_file, role, session, .. } => {
                self.assume(&token_in(token_file)?, role, session).await
            }
            Way::Container { proof, .. } => {
                let site = if is_near(&self.url) { Site::Machine } else { Site::Elsewhere };
                let mut ask = Ask::get(site, self.url.clone());
                let (token, from) = match proof {
                    Proof::None => (None, ""),
                    Proof::Token(token) => (Some(token.clone()), "AWS_CONTAINER_AUTHORIZATION_TOKEN"),
                    Proof::File(file) => (Some(token_in(file)?), "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
                };
                if let Some(token) = token {
                    ask = ask.header("authorization", &token, from)?;
                }
                let reply = self.asking.send(&ask).await?;
                answers::aws_role(&given(&reply)?.body)
            }
            Way::Instance { .. } => self.of_instance().await,
        }
    }

    /// `AssumeRoleWithWebIdentity` (AWS STS API reference); it is not signed.
    async fn assume(
        &self,
        token: &str,
        role: &str,
        session: &str,
    ) -> Result<(AwsCredential, Timestamp), NoIdentity> {
        let fields = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", role),
            ("RoleSessionName", session),
            ("WebIdentityToken", token),
        ];
        let reply = self.asking.send(&Ask::form(Site::Elsewhere, self.url.clone(), &fields)).await?;
        if reply.is_success() {
            return answers::aws_assumed(&reply.body);
        }
        let (code, said) = answers::aws_assumed_refused(&reply.body);
        let refused = reply.refused(&said);
        // The issuer of the token cannot be reached from there.
        Err(NoIdentity { is_away: refused.is_away || code == "IDPCommunicationError", ..refused })
    }

    /// IMDSv2: "Use IMDSv2" and "Retrieve security credentials from instance metadata", Amazon EC2 user guide. There is no way back
    /// to IMDSv1, by which other programs of the machine can be made to ask.
    async fn of_instance(&self) -> Result<(AwsCredential, Timestamp), NoIdentity> {
        const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
        const TOKEN: &str = "x-aws-ec2-metadata-token";
        let base = self.url.as_str().trim_end_matches('/');
        let at = |path: &str| address(&format!("{base}{path}"), "AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let mut ask = Ask::get(Site::Machine, at("/latest/api/token")?);
        ask.method = Method::PUT;
        let ask = ask.header("x-aws-ec2-metadata-token-ttl-seconds", "60", "this")?;
        let reply = self.asking.send(&ask).await?;
        let token = Zeroizing::new(String::from_utf8_lossy(&given(&reply)?.body).trim().to_owned());
        let get =
            |path: &str| Ask::get(Site::Machine, at(path)?).header(TOKEN, &token, "the token that it gives");
        let reply = self.asking.send(&get(ROLES)?).await?;
        if reply.status == 404 {
            return Err(NoIdentity::refused("this machine has no role"));
        }
        let roles = String::from_utf8_lossy(&given(&reply)?.body).into_owned();
        // There is one at most. Names of roles: "IAM and AWS STS quotas".
        let role = roles.lines().next().unwrap_or_default().trim();
        let is_name = |letter: u8| letter.is_ascii_alphanumeric() || b"+=,.@_-".contains(&letter);
        match role {
            "" => Err(NoIdentity::refused("this machine has no role")),
            role if role.bytes().all(is_name) && !role.starts_with('.') => {
                let reply = self.asking.send(&get(&format!("{ROLES}{role}"))?).await?;
                answers::aws_role(&given(&reply)?.body)
            }
            _ => Err(NoIdentity::away("what it names is no role")),
        }
    }
}

/// An answer that is no refusal.
fn given(reply: &Reply) -> Result<&Reply, NoIdentity> {
    if reply.is_success() { Ok(reply) } else { Err(reply.refused(&answers::aws_role_refused(&reply.body))) }
}

impl CredentialProvider for Identity {
    type Credential = AwsCredential;

    // As the macro of async-trait writes it.
    fn get_credential<'life0, 'async_trait>(
        &'life0 self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async {
            let failed = |why: NoIdentity| object_store::Error::Generic { store: "S3", source: why.into() };
            self.credential().await.map_err(failed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_s_path_names_no_host() {
        let Ok(Way::Container { url, .. }) = Way::of_container("/v2/credentials/x", Proof::None) else {
            panic!()
        };
        assert_eq!(url, "http://169.254.170.2/v2/credentials/x");
        for bad in [".example.org/x", "@example.org/", ":80", ""] {
            assert!(Way::of_container(bad, Proof::None).is_err(), "{bad}");
        }
    }

    #[test]
    fn credentials_of_roles_are_asked_for_where_they_may_be() {
        let opens = |way: Way| Identity::new(way, &HttpOptions::default()).map(drop).map_err(|why| why.why);
        let container = |url: &str| Way::Container { url: url.into(), proof: Proof::None };
        for good in [
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::23]/v1",
            "http://localhost:1",
            "https://x.org/",
        ] {
            assert!(opens(container(good)).is_ok(), "{good}");
        }
        for bad in ["http://example.org/", "ftp://localhost/", "/v2", "http://10.1.2.3/"] {
            let why = opens(container(bad)).unwrap_err();
            assert!(why.contains("AWS_CONTAINER_CREDENTIALS_FULL_URI"), "{bad}: {why}");
        }
        let web = |sts: &str| Way::WebIdentity {
            token_file: "t".into(),
            role: "r".into(),
            session: "s".into(),
            sts: sts.into(),
        };
        assert!(opens(web("http://sts.example.org")).unwrap_err().contains("https://"));
        for (region, url) in [
            ("", "https://sts.us-east-1.amazonaws.com"),
            ("eu-central-1", "https://sts.eu-central-1.amazonaws.com"),
            ("cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn"),
        ] {
            assert_eq!(Way::sts_of(region), url);
            assert!(opens(web(url)).is_ok());
        }
    }
}
