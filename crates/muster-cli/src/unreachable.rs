//! Why a server could not be reached, in words that say what to do about it.
//!
//! Stays true: what a library says about TLS is never all that a person gets to read.

use crate::failure::chain;
use rustls::{CertificateError, Error as TlsError};
use std::error::Error;
use url::Url;

/// What kept a request from being answered, and what to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreachable {
    /// The cause.
    pub(crate) why: String,
    /// The advice.
    pub(crate) next: &'static str,
}

impl Unreachable {
    /// Finds out what `error` of a request to `url` means.
    pub(crate) fn of(url: &Url, error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            let next = "try again, or allow more time with --timeout; `muster doctor` looks closer";
            return Self { why: "the time ran out".to_owned(), next };
        }
        // The address stands in the failure already; without it the chain is easier to read.
        let cause = error.source().map_or_else(|| error.to_string(), chain);
        if let Some(known) = tls_error(error).and_then(of_tls) {
            let why = known.why.map_or(cause.clone(), |why| format!("{why} ({cause})"));
            return Self { why, next: known.next };
        }
        let next = if url.scheme() == "http" && !error.is_connect() {
            "if the server speaks TLS there, the address begins with https://; `muster doctor` looks closer"
        } else {
            "is it running, and is the address right (--url, MUSTER_URL, --data)? `muster doctor` looks closer"
        };
        Self { why: cause, next }
    }
}

struct Known {
    /// `None`: what the library says is clear enough.
    why: Option<&'static str>,
    next: &'static str,
}

fn of_tls(error: &TlsError) -> Option<Known> {
    let (why, next) = match error {
        TlsError::InvalidMessage(_) => (
            Some("something answers there, but not in TLS"),
            "on the server's own machine the address begins with http://; elsewhere the server needs TLS \
             (operators.tls = true, or a certificate), or another port is meant",
        ),
        TlsError::InvalidCertificate(error) => return of_certificate(error),
        TlsError::NoCertificatesPresented => {
            (Some("the server shows no certificate"), "look at its own log: operators.certificate names what it shows")
        }
        TlsError::PeerIncompatible(_) => (
            Some("the server speaks no version or method of TLS that this program does"),
            "whatever answers there needs TLS 1.2 or 1.3: look at the proxy before the server, if there is one",
        ),
        TlsError::AlertReceived(_) => (
            Some("the server ended the handshake"),
            "its log says why; a proxy before it may want a client's certificate, or know no server of this name",
        ),
        _ => return None,
    };
    Some(Known { why, next })
}

/// What `--ca` is for.
const NAME_AUTHORITY: &str = "name the authority with --ca FILE or MUSTER_CA: ca.pem of the server's data directory, or its \
                              self-signed certificate; compare the file's fingerprint before you trust it";
/// The one advice about a certificate that no server should show.
const OTHER_CERTIFICATE: &str = "give the server another certificate (operators.certificate), of version 3, for servers \
                                 (extended key usage serverAuth), with its names as subjectAltName, signed with SHA-256 or \
                                 better, and send it SIGHUP";

fn of_certificate(error: &CertificateError) -> Option<Known> {
    use CertificateError as E;
    let (why, next) = match error {
        E::UnknownIssuer => {
            (Some("nothing on this machine trusts the authority of the server's certificate"), NAME_AUTHORITY)
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            (None, "use a name of the certificate, or have this one added to it (agents.names, with operators.tls)")
        }
        E::Expired | E::ExpiredContext { .. } => (
            Some("the server's certificate has expired, or the clock of this machine is ahead"),
            "renew it there and send the server SIGHUP; `muster doctor` on the server shows the dates",
        ),
        E::NotValidYet | E::NotValidYetContext { .. } => {
            (Some("the server's certificate is not valid yet"), "compare the clocks of this machine and of the server")
        }
        E::BadSignature => (
            Some("the server's certificate names an authority that did not sign it"),
            "the authority may have a new key: compare --ca FILE (MUSTER_CA) with ca.pem of the server's data directory; \
             otherwise somebody stands between",
        ),
        E::Revoked => {
            (Some("the server's certificate was revoked"), "do not go on: ask whoever runs the server for a new one")
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            (Some("the server's certificate is not meant for servers"), OTHER_CERTIFICATE)
        }
        E::UnsupportedSignatureAlgorithmContext { .. } | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            (
                Some("the server's certificate is signed in a way that this program does not take, such as SHA-1"),
                OTHER_CERTIFICATE,
            )
        }
        E::BadEncoding | E::UnhandledCriticalExtension => {
            (Some("the server's certificate cannot be understood"), OTHER_CERTIFICATE)
        }
        E::Other(other) => return of_other(&other.to_string()),
        // Those of lists of revoked certificates: this program reads none.
        _ => return None,
    };
    Some(Known { why, next })
}

/// What the library below names by a word alone.
fn of_other(word: &str) -> Option<Known> {
    let (why, next) = match word {
        "CaUsedAsEndEntity" => (
            "the server shows the certificate of an authority as its own, and nothing on this machine trusts that very \
             certificate",
            "if it is the server's self-signed one, name it with --ca FILE or MUSTER_CA, after comparing its fingerprint; \
             if it is an authority's, give the server one that the authority issued (operators.certificate)",
        ),
        "UnsupportedCertVersion" | "EmptyEkuExtension" | "RequiredEkuNotFound" | "MalformedExtensions" => {
            ("the server's certificate is of a kind that this program does not take", OTHER_CERTIFICATE)
        }
        "EndEntityUsedAsCa" | "PathLenConstraintViolated" | "NameConstraintViolation" | "MaximumPathDepthExceeded" => (
            "the server's certificate is signed by one that may not sign it",
            "have it issued by the authority itself, and put the certificates between the two behind it",
        ),
        _ => return None,
    };
    Some(Known { why: Some(why), next })
}

/// Finds the error of TLS in a chain, in which it may be wrapped as one of reading or writing.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    let mut next: Option<&'a (dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| tls_error(inner)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::Arc;

    /// Serves one connection.
    fn serve(with: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || with(listener.accept().unwrap().0));
        address
    }

    /// Another test may have done it.
    fn provide() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }

    /// Where a server of one connection is, and what it shows.
    struct Shown {
        address: SocketAddr,
        certificate: rcgen::Certificate,
    }

    impl Shown {
        fn port(&self) -> u16 {
            self.address.port()
        }
    }

    /// A client that trusts one certificate as an authority.
    fn trusting(certificate: &rcgen::Certificate) -> reqwest::Client {
        let certificate = reqwest::Certificate::from_pem(certificate.pem().as_bytes()).unwrap();
        let builder = reqwest::Client::builder().timeout(std::time::Duration::from_secs(20)).no_proxy();
        builder.tls_certs_only([certificate]).build().unwrap()
    }

    fn tls(names: &[&str]) -> SocketAddr {
        tls_of(names, |_| {}).address
    }

    fn tls_of(names: &[&str], change: impl FnOnce(&mut rcgen::CertificateParams)) -> Shown {
        provide();
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap());
        let address = serve(move |mut stream| {
            let mut connection = rustls::ServerConnection::new(config).unwrap();
            while connection.is_handshaking() && connection.complete_io(&mut stream).is_ok() {}
        });
        Shown { address, certificate }
    }

    async fn asked(url: &str) -> Unreachable {
        provide();
        let url: Url = url.parse().unwrap();
        let client = reqwest::Client::builder().timeout(std::time::Duration::from_secs(20)).build().unwrap();
        let error = client.get(url.clone()).send().await.unwrap_err();
        Unreachable::of(&url, &error)
    }

    #[tokio::test]
    async fn a_port_without_tls_is_called_that() {
        let address = serve(|mut stream| {
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        });
        let unreachable = asked(&format!("https://{address}/")).await;
        assert!(unreachable.why.starts_with("something answers there, but not in TLS ("), "{unreachable:?}");
        assert!(unreachable.next.contains("http://"), "{unreachable:?}");
    }

    #[tokio::test]
    async fn an_authority_that_nobody_trusts_here_is_to_be_named() {
        let address = tls(&["localhost"]);
        let unreachable = asked(&format!("https://localhost:{}/", address.port())).await;
        assert!(unreachable.why.contains("nothing on this machine trusts"), "{unreachable:?}");
        assert!(unreachable.next.contains("--ca FILE"), "{unreachable:?}");
    }

    #[tokio::test]
    async fn an_authoritys_certificate_shown_by_a_server_is_called_that() {
        let address = tls_of(&["localhost"], |params| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        });
        let url: Url = format!("https://localhost:{}/", address.port()).parse().unwrap();
        // It leads to an authority that this machine trusts: itself.
        let error = trusting(&address.certificate).get(url.clone()).send().await.unwrap_err();
        let unreachable = Unreachable::of(&url, &error);
        assert!(unreachable.why.starts_with("the server shows the certificate of an authority"), "{unreachable:?}");
        assert!(unreachable.why.contains("CaUsedAsEndEntity"), "{unreachable:?}");
        assert!(unreachable.next.contains("--ca FILE") && unreachable.next.contains("operators.certificate"));
    }

    #[tokio::test]
    async fn a_certificate_that_is_not_for_servers_is_called_that() {
        let address = tls_of(&["localhost"], |params| {
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        });
        let url: Url = format!("https://localhost:{}/", address.port()).parse().unwrap();
        let error = trusting(&address.certificate).get(url.clone()).send().await.unwrap_err();
        let unreachable = Unreachable::of(&url, &error);
        assert!(unreachable.why.contains("not meant for servers"), "{unreachable:?}");
    }

    #[tokio::test]
    async fn a_port_with_tls_is_not_spoken_to_in_clear() {
        let address = tls(&["localhost"]);
        let unreachable = asked(&format!("http://{address}/")).await;
        assert!(unreachable.next.contains("https://"), "{unreachable:?}");
    }

    #[tokio::test]
    async fn where_nobody_listens_it_is_asked_whether_it_runs() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(asked(&format!("http://{address}/")).await.next.starts_with("is it running"));
    }

    #[test]
    fn errors_of_dates_and_names_have_their_own_advice() {
        let advice = |error: CertificateError| of_tls(&TlsError::InvalidCertificate(error)).map(|known| known.next);
        assert!(advice(CertificateError::Expired).unwrap().contains("SIGHUP"));
        assert!(advice(CertificateError::NotValidYet).unwrap().contains("clocks"));
        assert!(advice(CertificateError::NotValidForName).unwrap().contains("agents.names"));
        assert!(advice(CertificateError::BadSignature).unwrap().contains("new key"));
        assert!(advice(CertificateError::InvalidPurpose).unwrap().contains("serverAuth"));
        assert!(advice(CertificateError::BadEncoding).unwrap().contains("version 3"));
        assert_eq!(advice(CertificateError::UnknownRevocationStatus), None);
    }
}
