//! Which server is believed: one whose certificate leads to a pinned authority, carries the right name, is in date and
//! not revoked, and whose key signs the handshake. No system roots, no other way. What administrators revoked by a document is
//! refused, also where it is pinned.
//!
//! Certificates of the original's configurator say that the server is itself an authority (CA:TRUE), which the usual
//! check refuses. For those, and only when issued directly by a pinned certificate, the same questions are asked here.

use crate::pins::PinError;
use crate::revocations::{Revocations, RevokedForGood, is_revoked};
use crate::revoked::Revoked;
use crate::vouched::Vouched;
use muster_core::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::{Arc, PoisonError};
use x509_parser::certificate::X509Certificate;

/// The check itself.
#[derive(Debug)]
pub(crate) struct PinnedVerifier {
    pins: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
    revoked: Revoked,
    for_good: Arc<Revocations>,
    vouched: Arc<Vouched>,
}

impl PinnedVerifier {
    /// Pins `pins`; `revoked` may grow while the agent runs.
    pub(crate) fn new(
        pins: Vec<CertificateDer<'static>>,
        provider: &CryptoProvider,
        revoked: Revoked,
    ) -> Result<Self, PinError> {
        let mut roots = RootCertStore::empty();
        for (index, pin) in pins.iter().enumerate() {
            roots.add(pin.clone()).map_err(|error| PinError::one(index + 1, error.to_string()))?;
        }
        Ok(Self {
            pins,
            roots,
            algorithms: provider.signature_verification_algorithms,
            revoked,
            for_good: Arc::default(),
            vouched: Arc::default(),
        })
    }

    /// Tells `vouched` the dates of the pins, and then of each server's certificate that is believed.
    pub(crate) fn vouching(mut self, vouched: Arc<Vouched>) -> Self {
        for pin in self.pins.iter().filter_map(|pin| parse(pin).ok()) {
            vouched.certificate(not_before(&pin));
        }
        self.vouched = vouched;
        self
    }

    /// Heeds what administrators revoked for good, which may grow while the agent runs.
    pub(crate) fn heeding(self, for_good: Arc<Revocations>) -> Self {
        Self { for_good, ..self }
    }

    /// Checks that the certificate leads to one of `pins`, which are `roots`.
    fn verify_chain(
        &self,
        (end_entity, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        (roots, pins): (&RootCertStore, &[CertificateDer<'static>]),
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms) {
            Err(error) if is_authority_as_server(&error) => self.verify_direct(end_entity, pins, now),
            other => other,
        }
    }

    /// Refuses when administrators revoked a certificate that the server showed, or all pins that it leads to.
    fn check_revoked_for_good(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let revoked = self.for_good.current();
        if revoked.is_empty() {
            return Ok(());
        }
        let refused = || Error::Other(OtherError(Arc::new(RevokedForGood)));
        if std::iter::once(end_entity).chain(intermediates).any(|shown| is_revoked(shown, &revoked)) {
            return Err(refused());
        }
        let left: Vec<_> = self.pins.iter().filter(|pin| !is_revoked(pin, &revoked)).cloned().collect();
        if left.len() == self.pins.len() {
            return Ok(());
        }
        // It led to one of the pins: does it lead to one of those that are left?
        let mut roots = RootCertStore::empty();
        let is_added = left.iter().all(|pin| roots.add(pin.clone()).is_ok());
        let leads = self.verify_chain((end_entity, intermediates), (&roots, &left), now);
        if is_added && leads.is_ok() { Ok(()) } else { Err(refused()) }
    }

    /// Checks the chain of a certificate that says it is an authority itself.
    fn verify_direct(
        &self,
        end_entity: &CertificateDer<'_>,
        pins: &[CertificateDer<'static>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let leaf = parse(end_entity)?;
        in_date(&leaf, now)?;
        may_serve(&leaf)?;
        if pins.iter().any(|pin| pin.as_ref() == end_entity.as_ref()) {
            return Ok(());
        }
        for pin in pins {
            let issuer = parse(pin)?;
            if issuer.subject().as_raw() == leaf.issuer().as_raw()
                && may_issue(&issuer)
                && in_date(&issuer, now).is_ok()
                && self.signed_by(&leaf, &issuer)
            {
                return Ok(());
            }
        }
        Err(CertificateError::UnknownIssuer.into())
    }

    /// Whether `issuer`'s key made the signature on `leaf`.
    fn signed_by(&self, leaf: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
        // The algorithm must be named alike inside and outside of the signed part.
        if leaf.signature_algorithm != leaf.tbs_certificate.signature {
            return false;
        }
        let (Some(signature_id), Some(key_id)) =
            (algorithm_identifier(&leaf.signature_algorithm), algorithm_identifier(&issuer.public_key().algorithm))
        else {
            return false;
        };
        self.algorithms
            .all
            .iter()
            .filter(|algorithm| {
                *algorithm.signature_alg_id() == *signature_id && *algorithm.public_key_alg_id() == *key_id
            })
            .any(|algorithm| {
                let key = &issuer.public_key().subject_public_key.data;
                algorithm.verify_signature(key, leaf.tbs_certificate.as_ref(), &leaf.signature_value.data).is_ok()
            })
    }

    /// Refuses when a certificate that the server showed is revoked. What the machine's owner pinned is not the server's
    /// to revoke: the list comes through the very link that the pin vouches for.
    fn check_revoked(&self, chain: &[&CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let now = Timestamp::from_secs(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let revoked = self.revoked.read().unwrap_or_else(PoisonError::into_inner);
        for der in chain {
            if self.pins.iter().any(|pin| pin.as_ref() == der.as_ref()) {
                continue;
            }
            if revoked.contains(parse(der)?.raw_serial(), now) {
                return Err(CertificateError::Revoked.into());
            }
        }
        Ok(())
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_chain((end_entity, intermediates), (&self.roots, &self.pins), now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        self.check_revoked_for_good(end_entity, intermediates, now)?;
        let shown: Vec<_> = std::iter::once(end_entity).chain(intermediates).collect();
        self.check_revoked(&shown, now)?;
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX / 1_000_000_000);
        self.vouched.handshake(not_before(&parse(end_entity)?), Timestamp::from_secs(seconds));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether the usual check failed only because the server's certificate is that of an authority.
fn is_authority_as_server(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = error else { return false };
    cause.downcast_ref::<webpki::Error>() == Some(&webpki::Error::CaUsedAsEndEntity)
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::BadEncoding.into()),
    }
}

/// Since when a certificate counts, and so a moment that its maker knew to be past.
fn not_before(certificate: &X509Certificate<'_>) -> Timestamp {
    Timestamp::from_secs(certificate.validity().not_before.timestamp())
}

fn in_date(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < certificate.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > certificate.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Whether the certificate's extensions allow its key to sign a server's handshake. An extension that is critical and
/// not understood refuses it.
fn may_serve(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    let refused = || Error::from(CertificateError::InvalidPurpose);
    if certificate.key_usage().map_err(|_| refused())?.is_some_and(|usage| !usage.value.digital_signature()) {
        return Err(refused());
    }
    let extended = certificate.extended_key_usage().map_err(|_| refused())?;
    if extended.is_some_and(|usage| !usage.value.any && !usage.value.server_auth) {
        return Err(refused());
    }
    critical_understood(certificate)
}

/// Whether the certificate is that of an authority whose key may sign certificates.
fn may_issue(certificate: &X509Certificate<'_>) -> bool {
    let authority = matches!(certificate.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca);
    let signs = certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()));
    // A path limit of zero forbids further authorities below it, and the leaf says it is one.
    authority && signs && critical_understood(certificate).is_ok()
}

fn critical_understood(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    use x509_parser::oid_registry as oid;
    let known = [
        oid::OID_X509_EXT_BASIC_CONSTRAINTS,
        oid::OID_X509_EXT_KEY_USAGE,
        oid::OID_X509_EXT_EXTENDED_KEY_USAGE,
        oid::OID_X509_EXT_SUBJECT_ALT_NAME,
        oid::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
        oid::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
    ];
    if certificate.extensions().iter().any(|extension| extension.critical && !known.contains(&extension.oid)) {
        Err(CertificateError::UnhandledCriticalExtension.into())
    } else {
        Ok(())
    }
}

/// Writes an algorithm as the TLS library names them: the DER inside the SEQUENCE.
fn algorithm_identifier(algorithm: &x509_parser::x509::AlgorithmIdentifier<'_>) -> Option<Vec<u8>> {
    let oid = algorithm.algorithm.as_bytes();
    let mut der = vec![6, u8::try_from(oid.len()).ok()?];
    der.extend_from_slice(oid);
    if let Some(parameters) = &algorithm.parameters {
        let content = parameters.as_bytes();
        der.push(u8::try_from(parameters.tag().0).ok()?);
        der.push(u8::try_from(content.len()).ok().filter(|length| *length < 128)?);
        der.extend_from_slice(content);
    }
    Some(der)
}

#[cfg(test)]
#[path = "pinned_tests.rs"]
mod tests;
