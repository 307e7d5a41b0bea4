//! Certificates for connections over TLS.

pub use engine::connector::Tls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme,
    WantsVerifier,
};
use std::sync::Arc;

/// A certificate with those between it and its authority, and its key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// How rustls calls a certificate of X.509 version 1.
const VERSION_1: &str = "UnsupportedCertVersion";

/// How rustls calls a certificate that no known authority signed.
const UNKNOWN: &str = "UnknownIssuer";

/// The option that names the authorities to trust of servers.
pub const AUTHORITIES: &str = "-o tls.ca=FILE";

/// What is wrong with a certificate that is not the server's, which rustls calls the peer's in any case.
fn about(whose: &str, error: &rustls::Error) -> String {
    let text = error.to_string();
    if text.contains(VERSION_1) {
        return format!(
            "{whose} is of X.509 version 1, and version 3 is needed: sign it again with extensions, as \
             'openssl x509 -req -extfile FILE' does with basicConstraints=CA:FALSE in FILE"
        );
    }
    format!("{whose}: {}", text.trim_start_matches("invalid peer certificate: "))
}

/// A library's error about a line over TLS, for people.
#[must_use]
pub fn plain(text: &str) -> String {
    if text.contains(VERSION_1) {
        return "the server's certificate is of X.509 version 1; version 3 is needed".into();
    }
    let text = text.replace("invalid peer certificate: ", "the server's certificate is not good: ");
    match text.contains(UNKNOWN) {
        true => {
            format!("{text}: no authority that is trusted here signed it; {AUTHORITIES} names its authority")
        }
        false => text,
    }
}

/// What a server's certificate must be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nothing: the line is encrypted, whoever is at its end.
    Anyone,
    /// An authority that we believe has signed it, for whatever name.
    Authority,
    /// And it is for this host.
    Host,
}

/// Lines over TLS with these certificates.
pub trait Lines {
    /// A connection to `host`, not yet begun.
    ///
    /// # Errors
    /// What is wrong with the certificates, or with the name.
    fn connect(&self, host: &str) -> Result<ClientConnection, String>;
    /// A connection to `host`, not yet begun, whose certificate needs not be good for everything.
    ///
    /// # Errors
    /// What is wrong with the certificates, or with the name.
    fn connect_trusting(&self, host: &str, trust: Trust) -> Result<ClientConnection, String>;
    /// Whether our own certificate is one that can be shown, before anything is sent. Every client of a server over
    /// TLS asks this first: the libraries that some of them use say it less clearly, or leave out what they cannot use.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    fn check(&self) -> Result<(), String>;
}

impl Lines for Tls {
    fn connect(&self, host: &str) -> Result<ClientConnection, String> {
        self.connect_trusting(host, Trust::Host)
    }

    fn connect_trusting(&self, host: &str, trust: Trust) -> Result<ClientConnection, String> {
        let builder = ClientConfig::builder();
        let builder = match trust {
            Trust::Anyone => lax(builder, None),
            Trust::Authority => lax(builder, Some(roots(self)?)),
            Trust::Host => builder.with_root_certificates(roots(self)?),
        };
        let config = match identity(self)? {
            Some((chain, key)) => {
                builder.with_client_auth_cert(chain, key).map_err(|error| about("our certificate", &error))?
            }
            None => builder.with_no_client_auth(),
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("{host}: {error}"))?;
        ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())
    }

    fn check(&self) -> Result<(), String> {
        identity(self).map(drop)
    }
}

/// Who we are, if we say so.
fn identity(tls: &Tls) -> Result<Option<Identity>, String> {
    let (certificate, key) = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return Ok(None),
        _ => {
            return Err("a certificate and its key belong together: -o tls.cert=FILE -o tls.key=FILE".into());
        }
    };
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("our certificate: {error}"))?;
    let own = chain.first().ok_or("our certificate: there is none in the file (PEM)")?;
    ParsedCertificate::try_from(own).map_err(|error| about("our certificate", &error))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("our key: {error}"))?;
    Ok(Some((chain, key)))
}

/// The authorities that we believe.
fn roots(tls: &Tls) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match &tls.authorities {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate =
                    certificate.map_err(|error| format!("certificate of the authority: {error}"))?;
                roots.add(certificate).map_err(|error| about("certificate of the authority", &error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err("there is no authority to believe; give its certificate, -o tls.ca=FILE".into());
    }
    Ok(roots)
}

/// A check of certificates that leaves the name out, and without `roots` who signed them.
fn lax(
    builder: ConfigBuilder<ClientConfig, WantsVerifier>,
    roots: Option<RootCertStore>,
) -> ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let algorithms = builder.crypto_provider().signature_verification_algorithms;
    builder.dangerous().with_custom_certificate_verifier(Arc::new(Lax { roots, algorithms }))
}

#[derive(Debug)]
struct Lax {
    roots: Option<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Lax {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                roots,
                intermediates,
                now,
                self.algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_of_an_unknown_authority_is_told_with_its_way_out() {
        let told = plain("invalid peer certificate: UnknownIssuer");
        assert!(
            told.starts_with("the server's certificate is not good") && told.contains("-o tls.ca=FILE"),
            "{told}"
        );
        assert!(!plain("invalid peer certificate: Expired").contains("tls.ca"));
    }

    #[test]
    fn certificates_that_cannot_be_shown() {
        let tls = |certificate: Option<&[u8]>, key: Option<&[u8]>| Tls {
            certificate: certificate.map(<[u8]>::to_vec),
            key: key.map(<[u8]>::to_vec),
            ..Tls::default()
        };
        assert_eq!(Tls::default().check(), Ok(()));
        for (bad, why) in [
            (tls(Some(b"x"), None), "belong together"),
            (tls(None, Some(b"x")), "belong together"),
            (tls(Some(b"no PEM"), Some(b"x")), "there is none in the file"),
            (
                tls(Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), Some(b"x")),
                "our certificate: ",
            ),
        ] {
            let told = bad.check().unwrap_err();
            assert!(told.contains(why) && !told.contains("peer"), "{told}");
        }
    }
}
