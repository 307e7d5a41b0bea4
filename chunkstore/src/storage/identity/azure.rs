//! Identities of Azure: an application with a secret or with a token of another issuer (workload identity), and a machine's
//! (managed identity).

use super::asking::{Ask, Asking, Reply, Site, address, is_own, pair, safe_address, token_in};
use super::kept::Kept;
use super::{NoIdentity, answers, prove};
use crate::storage::{HttpOptions, StorageResult};
use jiff::Timestamp;
use object_store::CredentialProvider;
use object_store::azure::AzureCredential;
use reqwest::Url;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use zeroize::Zeroizing;

/// What tokens for blobs are for ("Authorize access to blobs using Microsoft Entra ID").
pub const STORAGE: &str = "https://storage.azure.com";
/// Where Azure's applications get tokens, unless another cloud's authority is named.
pub const AUTHORITY: &str = "https://login.microsoftonline.com";
/// Where Azure's machines ask who they are ("Azure Instance Metadata Service").
pub const METADATA: &str = "http://169.254.169.254";
/// Where the agent of Azure Arc puts what only members of its group can read ("Authenticate against Azure resources with
/// Azure Arc-enabled servers").
pub const ARC_KEYS: &str = "/var/opt/azcmagent/tokens";

/// What is to be set where nothing is, for messages.
const WAYS: &str = "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET or AZURE_FEDERATED_TOKEN_FILE, or give this \
    machine an identity";

/// How Azure is told who we are.
#[derive(Clone, PartialEq, Eq)]
pub enum How {
    /// An application's own secret: `AZURE_CLIENT_SECRET`.
    Secret(Zeroizing<String>),
    /// A file with a token of another issuer, which is written anew from time to time: `AZURE_FEDERATED_TOKEN_FILE`.
    Federated(PathBuf),
    /// This machine's identity, from the endpoint that App Service and others name, with their header: `IDENTITY_ENDPOINT` and
    /// `IDENTITY_HEADER`.
    Endpoint(String, Zeroizing<String>),
    /// This machine's identity, from the agent of Azure Arc, and where that puts its keys: `IDENTITY_ENDPOINT` and
    /// `IMDS_ENDPOINT`.
    Arc(String, PathBuf),
    /// This machine's identity, from its metadata service at this URL.
    Machine(String),
}

/// Who we are for Azure.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// [`AUTHORITY`], or what is in its place.
    pub authority: String,
    /// The tenant; empty for a machine's identity.
    pub tenant: String,
    /// The application, or the identity of several; may be empty.
    pub client: String,
    /// The proof.
    pub how: How,
}

impl Login {
    /// The URL that is asked.
    fn url(&self) -> Result<Url, NoIdentity> {
        match &self.how {
            How::Secret(_) | How::Federated(_) => {
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
                if self.tenant.is_empty() || !self.tenant.bytes().all(is_plain) {
                    return Err(NoIdentity::refused("AZURE_TENANT_ID is no id or name of a tenant"));
                }
                let authority = self.authority.trim_end_matches('/');
                safe_address(
                    &format!("{authority}/{}/oauth2/v2.0/token", self.tenant),
                    "AZURE_AUTHORITY_HOST",
                )
            }
            How::Endpoint(endpoint, _) => address(endpoint, "IDENTITY_ENDPOINT"),
            How::Arc(endpoint, _) => {
                let url = address(endpoint, "IDENTITY_ENDPOINT")?;
                let why = "IDENTITY_ENDPOINT is not on this machine, and IDENTITY_HEADER is not set";
                if is_own(&url) { Ok(url) } else { Err(NoIdentity::refused(why)) }
            }
            How::Machine(endpoint) => {
                let endpoint = endpoint.trim_end_matches('/');
                let url = format!("{endpoint}/metadata/identity/oauth2/token");
                address(&url, "AZURE_POD_IDENTITY_AUTHORITY_HOST")
            }
        }
    }

    /// Who gives the token.
    fn giver(&self) -> &'static str {
        match &self.how {
            How::Secret(_) => "Azure gives none for AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
            How::Federated(_) => "Azure gives none for AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE",
            How::Endpoint(..) | How::Arc(..) => "the service at IDENTITY_ENDPOINT gives none",
            How::Machine(_) => "this machine's metadata service",
        }
    }
}

type Token = Zeroizing<String>;

/// An identity of Azure, for one resource.
pub struct Identity {
    login: Login,
    /// Without a slash at its end.
    resource: &'static str,
    url: Url,
    asking: Asking,
    kept: Kept<Token>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an identity of Azure by {}", self.url.host_str().unwrap_or_default())
    }
}

impl Identity {
    /// Nobody is asked yet. Of `http`, authorities and the user agent count.
    ///
    /// # Errors
    ///
    /// A URL is none to which a proof may go.
    pub fn new(login: Login, resource: &'static str, http: &HttpOptions) -> Result<Self, NoIdentity> {
        let url = login.url()?;
        Ok(Self { login, resource, url, asking: Asking::new(http), kept: Kept::default() })
    }

    /// Waits until there is a token, or `stop` is set; `of` is what it is for.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn prove(&self, of: &str, stop: &Arc<AtomicBool>) -> StorageResult<()> {
        prove(of, stop, self.token())
    }

    /// A token that is good now.
    ///
    /// # Errors
    ///
    /// There is none.
    pub async fn token(&self) -> Result<Arc<Token>, NoIdentity> {
        let asked = self.kept.get(|| self.ask()).await;
        asked.map_err(|why| {
            let is_last = matches!(self.login.how, How::Machine(_));
            let why_not = format!("{}: {}", self.login.giver(), why.why);
            let told = if is_last { format!("{WAYS} (tried: the environment, {why_not})") } else { why_not };
            NoIdentity { why: told, ..why }
        })
    }

    async fn ask(&self) -> Result<(Token, Timestamp), NoIdentity> {
        let client = &self.login.client;
        match &self.login.how {
            How::Secret(secret) => self.of_tenant(&[("client_id", client), ("client_secret", secret)]).await,
            How::Federated(file) => {
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                let token = token_in(file)?;
                self.of_tenant(&[
                    ("client_id", client),
                    ("client_assertion_type", kind),
                    ("client_assertion", &token),
                ])
                .await
            }
            // "How to use managed identities for App Service and Azure Functions", REST endpoint.
            How::Endpoint(_, header) => {
                let ask =
                    self.of_machine("2019-08-01").header("x-identity-header", header, "IDENTITY_HEADER")?;
                given(&self.asking.send(&ask).await?)
            }
            How::Arc(_, keys) => self.of_arc(keys).await,
            // "How to use managed identities for Azure resources on an Azure VM to acquire an access token".
            How::Machine(_) => {
                let ask = self.of_machine("2018-02-01").header("metadata", "true", "this")?;
                given(&self.asking.send(&ask).await?)
            }
        }
    }

    /// "Microsoft identity platform and the OAuth 2.0 client credentials flow".
    async fn of_tenant(&self, fields: &[(&str, &str)]) -> Result<(Token, Timestamp), NoIdentity> {
        let scope = format!("{}/.default", self.resource);
        let common = [("grant_type", "client_credentials"), ("scope", &*scope)];
        let ask = Ask::form(Site::Elsewhere, self.url.clone(), &[&common, fields].concat());
        given(&self.asking.send(&ask).await?)
    }

    fn of_machine(&self, version: &str) -> Ask {
        let mut url = self.url.clone();
        let mut query = format!("{}&{}", pair("api-version", version), pair("resource", self.resource));
        if !self.login.client.is_empty() {
            query = format!("{query}&{}", pair("client_id", &self.login.client));
        }
        url.set_query(Some(&query));
        Ask::get(Site::Machine, url)
    }

    /// The agent says which file proves that we may ask, and gets its content.
    async fn of_arc(&self, keys: &Path) -> Result<(Token, Timestamp), NoIdentity> {
        let ask = || self.of_machine("2019-11-01").header("metadata", "true", "this");
        let reply = self.asking.send(&ask()?).await?;
        if reply.status != 401 {
            return given(&reply);
        }
        let challenge = reply.headers.get("www-authenticate").and_then(|value| value.to_str().ok());
        let file = challenge.and_then(|challenge| key_file(challenge, keys));
        let file =
            file.ok_or_else(|| NoIdentity::refused("the file that it names is none of Azure Arc's"))?;
        let proof = Zeroizing::new(format!("Basic {}", token_in(&file)?.as_str()));
        given(&self.asking.send(&ask()?.header("authorization", &proof, "the file of Azure Arc")?).await?)
    }
}

/// The file that a challenge names, `Basic realm=FILE`, if it is one of this folder: the content of no other goes anywhere.
fn key_file(challenge: &str, folder: &Path) -> Option<PathBuf> {
    let file = Path::new(challenge.trim().strip_prefix("Basic realm=")?.trim_matches('"'));
    let is_key = file.parent() == Some(folder) && file.extension().is_some_and(|end| end == "key");
    (is_key && file.file_name().is_some()).then(|| file.to_owned())
}

fn given(reply: &Reply) -> Result<(Token, Timestamp), NoIdentity> {
    if reply.is_success() {
        answers::azure_token(&reply.body)
    } else {
        Err(reply.refused(&answers::azure_refused(&reply.body)))
    }
}

impl CredentialProvider for Identity {
    type Credential = AzureCredential;

    // As the macro of async-trait writes it.
    fn get_credential<'life0, 'async_trait>(
        &'life0 self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AzureCredential>>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async {
            let failed = |why: NoIdentity| object_store::Error::Generic {
                store: "MicrosoftAzure",
                source: why.into(),
            };
            let token = self.token().await.map_err(failed)?;
            Ok(Arc::new(AzureCredential::BearerToken(token.as_str().to_owned())))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    fn identity(how: How, tenant: &str) -> Result<Identity, String> {
        let (authority, tenant) = (AUTHORITY.to_owned(), tenant.to_owned());
        let login = Login { authority, tenant, client: "app".into(), how };
        Identity::new(login, STORAGE, &HttpOptions::default()).map_err(|why| why.why)
    }

    #[test]
    fn tokens_of_azure_are_asked_for_where_they_may_be() {
        let header = || Zeroizing::new("h".to_owned());
        for (how, tenant, words) in [
            (How::Secret(header()), "../x", "AZURE_TENANT_ID"),
            (How::Secret(header()), "", "AZURE_TENANT_ID"),
            (How::Endpoint("localhost".into(), header()), "", "IDENTITY_ENDPOINT"),
            (How::Arc("http://169.254.0.1/x".into(), ARC_KEYS.into()), "", "IDENTITY_ENDPOINT"),
            (How::Machine("file:///x".into()), "", "AZURE_POD_IDENTITY_AUTHORITY_HOST"),
        ] {
            assert!(identity(how, tenant).unwrap_err().contains(words), "{words}");
        }
        assert!(identity(How::Secret(header()), "tenant").is_ok());
        assert!(identity(How::Machine(METADATA.into()), "").is_ok());
    }

    /// A double of the agent, from "Authenticate against Azure resources with Azure Arc-enabled servers".
    fn agent(realm: String) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut asked = vec![0; 8 << 10];
                let len = stream.read(&mut asked).unwrap();
                let asked = String::from_utf8_lossy(&asked[..len]).to_lowercase();
                let is_right = asked.contains("resource=https%3a%2f%2fstorage%2eazure%2ecom")
                    && asked.contains("metadata: true");
                let body = r#"{"access_token":"of-arc","expires_in":"3600"}"#;
                let answer = if is_right && asked.contains("authorization: basic sesame\r") {
                    format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                        body.len()
                    )
                } else {
                    format!(
                        "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm={realm}\r\nContent-Length: 0\r\n\
                         Connection: close\r\n\r\n"
                    )
                };
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        port
    }

    #[test]
    fn arc_gets_the_content_of_its_own_files_and_of_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("tokens");
        std::fs::create_dir(&keys).unwrap();
        for (name, content) in [("tokens/a.key", "sesame"), ("tokens/a.txt", "sesame"), ("b.key", "sesame")] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ask = |realm: String| {
            let endpoint = format!("http://127.0.0.1:{}/token", agent(realm));
            let arc = identity(How::Arc(endpoint, keys.clone()), "").unwrap();
            runtime.block_on(arc.token()).map(|token| token.as_str().to_owned()).map_err(|why| why.why)
        };
        let at = |name: &str| keys.join(name).display().to_string();
        assert_eq!(ask(at("a.key")).unwrap(), "of-arc");
        for other in [at("a.txt"), at("../b.key"), at("../tokens/a.key"), "/etc/shadow".into(), String::new()]
        {
            assert!(ask(other.clone()).unwrap_err().contains("none of Azure Arc's"), "{other}");
        }
        assert!(ask(at("c.key")).unwrap_err().contains("c.key"));
    }
}
