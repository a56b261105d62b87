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
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => (
            Some("nothing on this machine trusts the authority of the server's certificate"),
            "name the authority with --ca FILE or MUSTER_CA: ca.pem of the server's data directory, or its \
             self-signed certificate; compare the file's fingerprint before you trust it",
        ),
        TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => (None, "use a name of the certificate, or have this one added to it (agents.names, with operators.tls)"),
        TlsError::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => (
            Some("the server's certificate has expired, or the clock of this machine is ahead"),
            "renew it there and send the server SIGHUP; `muster doctor` on the server shows the dates",
        ),
        TlsError::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            (Some("the server's certificate is not valid yet"), "compare the clocks of this machine and of the server")
        }
        _ => return None,
    };
    Some(Known { why, next })
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

    fn tls(names: &[&str]) -> SocketAddr {
        provide();
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap());
        serve(move |mut stream| {
            let mut connection = rustls::ServerConnection::new(config).unwrap();
            while connection.is_handshaking() && connection.complete_io(&mut stream).is_ok() {}
        })
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
        assert_eq!(advice(CertificateError::BadEncoding), None);
    }
}
