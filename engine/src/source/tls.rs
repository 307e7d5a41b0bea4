//! Certificates for servers that are spoken to over TLS.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::sync::Arc;

/// Whom to believe, and who we are; all in PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// Certificates of the authorities to believe, instead of the system's.
    pub authorities: Option<Vec<u8>>,
    /// Our certificate, with those between it and its authority.
    pub certificate: Option<Vec<u8>>,
    /// Its key.
    pub key: Option<Vec<u8>>,
}

impl Tls {
    /// A connection to `host`, not yet begun.
    ///
    /// # Errors
    /// What is wrong with the certificates, or with the name.
    pub fn connect(&self, host: &str) -> Result<ClientConnection, String> {
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate =
                        certificate.map_err(|error| format!("certificate of the authority: {error}"))?;
                    roots
                        .add(certificate)
                        .map_err(|error| format!("certificate of the authority: {error}"))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err("there is no authority to believe; give its certificate, -o tls.ca=FILE".into());
        }
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
                let chain = chain.map_err(|error| format!("our certificate: {error}"))?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("our key: {error}"))?;
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| format!("our certificate: {error}"))?
            }
            (None, None) => config.with_no_client_auth(),
            _ => {
                return Err(
                    "a certificate and its key belong together: -o tls.cert=FILE -o tls.key=FILE".into()
                );
            }
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("{host}: {error}"))?;
        ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())
    }
}
