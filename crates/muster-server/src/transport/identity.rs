//! Whose key a request comes with: from the TLS handshake, or from a proxy that saw it.
//!
//! Stays true: a header names nobody unless the one who sends it is a proxy that the configuration names; anything that
//! could be read in two ways is refused. Not here: whether the key is known (muster-engine).

use super::answer::Answer;
use super::connection::Connection;
use super::door::Options;
use crate::config::{Frontend, ProxyIdentity};
use crate::tls::{KeyError, certificate_key};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::{HeaderMap, HeaderName, StatusCode};
use metrics::counter;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tracing::warn;

/// What a connection presented in its TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Presented {
    /// No certificate, or no TLS.
    Nothing,
    /// One certificate; its key, proven in the handshake.
    Key(Vec<u8>),
    /// So many certificates, where one is right.
    Several(usize),
}

impl Presented {
    pub(super) fn of(certificates: Option<&[CertificateDer<'_>]>) -> Result<Self, KeyError> {
        Ok(match certificates.unwrap_or_default() {
            [] => Self::Nothing,
            [one] => Self::Key(certificate_key(one)?),
            more => Self::Several(more.len()),
        })
    }
}

/// Returns the key that a request comes with. `line` says whether one more occurrence of what strangers can cause at will is
/// worth a line in the log, and how many were not.
pub(super) fn agent_key(
    options: &Options,
    connection: &Connection,
    headers: &HeaderMap,
    line: impl Fn(&'static str) -> Option<u64>,
) -> Result<Vec<u8>, Answer> {
    if options.frontend == Frontend::Mtls {
        if headers.contains_key(&options.certificate_header) {
            counter!("muster_transport_certificate_headers_ignored_total").increment(1);
            if let Some(more) = line("identity.header_ignored") {
                warn!(
                    event = "identity.header_ignored", peer = %connection.address, more,
                    "a certificate header came from {} and was ignored: the door takes certificates from TLS only",
                    connection.address
                );
            }
        }
        return match &connection.presented {
            Presented::Key(key) => Ok(key.clone()),
            Presented::Nothing => {
                Err(Answer::new(StatusCode::UNAUTHORIZED, "expected 1 client cert, received 0").closing())
            }
            Presented::Several(count) => {
                Err(Answer::bad_request(format!("expected 1 client cert, received {count}")).closing())
            }
        };
    }
    if !is_proxy(options, connection) {
        counter!("muster_transport_not_the_proxy_total").increment(1);
        if let Some(more) = line("identity.not_the_proxy") {
            warn!(
                event = "identity.not_the_proxy", peer = %connection.address, more,
                "{} is not a proxy of agents.proxies, its request was refused", connection.address
            );
        }
        return Err(Answer::new(StatusCode::FORBIDDEN, "this door is for its proxies only").closing());
    }
    let certificate = header_certificate(options, headers).map_err(Answer::bad_request)?;
    certificate_key(&certificate).map_err(|error| Answer::bad_request(error.to_string()))
}

/// Whether the peer may speak for agents. Whoever reaches a local socket may: its file says who that is.
fn is_proxy(options: &Options, connection: &Connection) -> bool {
    let Some(peer) = connection.peer else { return true };
    options.proxies.iter().any(|proxy| match proxy {
        ProxyIdentity::Address(address) => *address == peer.to_canonical(),
        ProxyIdentity::Key(hash) => {
            matches!(&connection.presented, Presented::Key(key) if Sha256::digest(key).as_slice() == hash)
        }
    })
}

fn header_certificate(options: &Options, headers: &HeaderMap) -> Result<CertificateDer<'static>, String> {
    let value = single(headers, &options.certificate_header)?;
    let pem = if options.frontend == Frontend::CleartextXfcc { xfcc_certificate(value)? } else { value.to_owned() };
    let certificate = pem_certificate(&pem)?;
    if options.frontend.has_checksum() {
        let checksum = single(headers, &options.checksum_header)?;
        let expected = STANDARD_NO_PAD.encode(Sha256::digest(&certificate));
        if checksum.trim_end_matches('=') != expected {
            return Err("the checksum does not belong to the certificate".into());
        }
    }
    Ok(certificate)
}

/// The one value of a header that must come once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, String> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| format!("header {name} is not plain text")),
        (None, _) => Err(format!("header {name} is missing")),
        (Some(_), Some(_)) => Err(format!("header {name} came twice")),
    }
}

/// Reads a percent-encoded PEM text that holds exactly one certificate and nothing after it. The error is a reason for
/// people.
pub fn pem_certificate(text: &str) -> Result<CertificateDer<'static>, String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let text = percent_encoding::percent_decode_str(text).decode_utf8().map_err(|_| "the certificate is no text")?;
    let body = text.trim_start().strip_prefix(BEGIN).ok_or("the certificate is not in PEM form")?;
    let (body, rest) = body.split_once(END).ok_or("the certificate is not in PEM form")?;
    if !rest.trim().is_empty() {
        return Err("something follows the certificate".into());
    }
    let base64: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let der = STANDARD.decode(base64).map_err(|_| "the certificate is not in PEM form")?;
    Ok(der.into())
}

/// Takes the first `Cert` out of an Envoy `x-forwarded-client-cert` header; without one, the whole header is it.
/// The error is a reason for people.
pub fn xfcc_certificate(value: &str) -> Result<String, String> {
    let mut rest = value;
    loop {
        let (key, after) = match rest.find(['=', ';', ',']) {
            Some(at) if rest.as_bytes()[at] == b'=' => (rest[..at].trim(), &rest[at + 1..]),
            Some(at) => {
                rest = &rest[at + 1..];
                continue;
            }
            None => return Ok(value.to_owned()),
        };
        let (text, after) = xfcc_value(after)?;
        if key.eq_ignore_ascii_case("cert") {
            return Ok(text);
        }
        rest = after;
    }
}

/// Reads one value, quoted or not, and returns what follows its separator.
fn xfcc_value(text: &str) -> Result<(String, &str), String> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        return Ok((text[..end].to_owned(), text[end..].get(1..).unwrap_or_default()));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &quoted[at + 1..])),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    Err("a quotation in the certificate header has no end".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
    use std::net::IpAddr;
    use std::sync::Arc;

    /// Every line is written.
    const LINE: fn(&'static str) -> Option<u64> = |_| Some(0);

    struct Given {
        pem: String,
        der: Vec<u8>,
        key: Vec<u8>,
    }

    fn given() -> Given {
        let pair = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&pair).unwrap();
        Given { pem: certificate.pem(), der: certificate.der().to_vec(), key: pair.subject_public_key_info() }
    }

    fn escaped(pem: &str) -> String {
        percent_encoding::utf8_percent_encode(pem, percent_encoding::NON_ALPHANUMERIC).to_string()
    }

    fn behind(frontend: Frontend) -> (Options, Arc<Connection>) {
        let proxy: IpAddr = "127.0.0.1".parse().unwrap();
        let options = Options { frontend, proxies: vec![ProxyIdentity::Address(proxy)], ..Options::default() };
        (options, Connection::new(Presented::Nothing, "127.0.0.1:9".into(), Some(proxy)))
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    const HEADER: &str = "x-forwarded-client-cert";
    const CHECKSUM: &str = "x-forwarded-client-cert-checksum";

    fn status(frontend: Frontend, pairs: &[(&str, &str)]) -> Result<Vec<u8>, u16> {
        let (options, connection) = behind(frontend);
        agent_key(&options, &connection, &headers(pairs), LINE).map_err(|answer| answer.status.as_u16())
    }

    #[test]
    fn a_proxy_hands_the_certificate_on_in_a_header() {
        let Given { pem, der, key } = given();
        let header = escaped(&pem);
        for frontend in [Frontend::HttpsHeader, Frontend::CleartextHeader] {
            assert_eq!(status(frontend, &[(HEADER, &header)]), Ok(key.clone()));
            assert_eq!(status(frontend, &[]), Err(400));
        }
        let checksum = STANDARD.encode(Sha256::digest(&der));
        for frontend in [Frontend::HttpsHeaderChecksum, Frontend::CleartextHeaderChecksum] {
            assert_eq!(status(frontend, &[(HEADER, &header), (CHECKSUM, &checksum)]), Ok(key.clone()));
            assert_eq!(
                status(frontend, &[(HEADER, &header), (CHECKSUM, checksum.trim_end_matches('='))]),
                Ok(key.clone())
            );
            assert_eq!(status(frontend, &[(HEADER, &header)]), Err(400));
            assert_eq!(status(frontend, &[(HEADER, &header), (CHECKSUM, "AAAA")]), Err(400));
        }
        let xfcc = format!("By=a;Hash=\"b,c;Cert=\\\"\";cert=\"{header}\";URI=x,By=z;Cert=\"other\"");
        assert_eq!(status(Frontend::CleartextXfcc, &[(HEADER, &xfcc)]), Ok(key.clone()));
        assert_eq!(status(Frontend::CleartextXfcc, &[(HEADER, &header)]), Ok(key));
        assert_eq!(status(Frontend::CleartextXfcc, &[(HEADER, "By=a;Cert=\"x")]), Err(400));
    }

    #[test]
    fn s05_headers_that_can_be_read_in_two_ways_are_refused() {
        let Given { pem, .. } = given();
        let header = escaped(&pem);
        let refused = |pairs: &[(&str, &str)]| assert_eq!(status(Frontend::HttpsHeader, pairs), Err(400), "{pairs:?}");
        refused(&[(HEADER, &header), (HEADER, &header)]);
        refused(&[(HEADER, &escaped(&header))]);
        refused(&[(HEADER, &escaped(&format!("{pem}{pem}")))]);
        refused(&[(HEADER, &escaped(&format!("{pem}x")))]);
        refused(&[(HEADER, &header[..header.len() / 2])]);
        refused(&[(HEADER, &escaped("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))]);
        refused(&[(HEADER, "")]);
        refused(&[(HEADER, "%ff")]);
    }

    #[test]
    fn s05_only_a_named_proxy_may_speak_for_agents() {
        let header = escaped(&given().pem);
        let headers = headers(&[(HEADER, &header)]);
        let (mut options, _) = behind(Frontend::HttpsHeader);
        let stranger: IpAddr = "10.0.0.1".parse().unwrap();
        let from = |presented| Connection::new(presented, "10.0.0.1:9".into(), Some(stranger));
        let ask = |options: &Options, presented| {
            agent_key(options, &from(presented), &headers, LINE).map(drop).map_err(|answer| answer.status.as_u16())
        };
        let proxy_key = given().key;
        assert_eq!(ask(&options, Presented::Key(proxy_key.clone())), Err(403));
        options.proxies.push(ProxyIdentity::Key(Sha256::digest(&proxy_key).into()));
        assert_eq!(ask(&options, Presented::Key(proxy_key)), Ok(()));
        assert_eq!(ask(&options, Presented::Key(given().key)), Err(403));
        assert_eq!(ask(&options, Presented::Nothing), Err(403));
        let local = Connection::new(Presented::Nothing, "local".into(), None);
        assert!(agent_key(&options, &local, &headers, LINE).is_ok());
        let mapped = Connection::new(Presented::Nothing, String::new(), Some("::ffff:127.0.0.1".parse().unwrap()));
        assert!(agent_key(&options, &mapped, &headers, LINE).is_ok());
    }

    #[test]
    fn a_header_means_nothing_where_tls_counts() {
        let own = given().key;
        let headers = headers(&[(HEADER, &escaped(&given().pem))]);
        let options = Options::default();
        let ask = |presented| {
            let connection = Connection::new(presented, "127.0.0.1:9".into(), Some("127.0.0.1".parse().unwrap()));
            agent_key(&options, &connection, &headers, LINE).map_err(|answer| answer.status.as_u16())
        };
        assert_eq!(ask(Presented::Key(own.clone())), Ok(own));
        assert_eq!(ask(Presented::Nothing), Err(401));
        assert_eq!(ask(Presented::Several(2)), Err(400));
    }

    proptest! {
        #[test]
        fn any_header_is_answered(text in ".*") {
            drop(pem_certificate(&text));
            drop(xfcc_certificate(&text));
        }
    }
}
