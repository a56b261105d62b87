//! Certificates that administrators revoked for good, for all who check a server's, and what that leaves of the authorities
//! that this machine trusts.
//!
//! Stays true: only a document that enough administrators signed stands here, and it counts for pinned certificates, too; it
//! counts until a newer document, however long ago it expired. Not here: lists of servers, which narrow for a while (revoked).

use muster_trust::document;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use tokio::sync::watch;

/// What administrators revoked, shared by those who read documents and those who check certificates.
#[derive(Debug)]
pub(crate) struct Revocations(watch::Sender<Arc<document::Revocations>>);

impl Default for Revocations {
    fn default() -> Self {
        Self(watch::Sender::new(Arc::default()))
    }
}

impl Revocations {
    /// Begins with what a document says that was taken before.
    pub(crate) fn new(now: Arc<document::Revocations>) -> Arc<Self> {
        let all = Self::default();
        all.replace(now);
        Arc::new(all)
    }

    /// Puts what counts now in the place of what counted. Connections that were made before are made again.
    pub(crate) fn replace(&self, now: Arc<document::Revocations>) {
        self.0.send_if_modified(|counts| {
            let is_other = *counts != now;
            *counts = now;
            is_other
        });
    }

    /// Returns what counts now.
    pub(crate) fn current(&self) -> Arc<document::Revocations> {
        Arc::clone(&self.0.borrow())
    }

    /// Returns what reports each change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<document::Revocations>> {
        self.0.subscribe()
    }
}

/// Why a certificate is refused that administrators revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a document of administrators revoked its certificate, or that of its authority")]
pub(crate) struct RevokedForGood;

/// Whether administrators revoked this certificate. One that cannot be read is named by its fingerprint alone.
pub(crate) fn is_revoked(certificate: &CertificateDer<'_>, revoked: &document::Revocations) -> bool {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    let serial = parsed.as_ref().map(|(_, parsed)| parsed.raw_serial()).unwrap_or_default();
    revoked.names(serial, certificate)
}

/// Whether nothing is left of the certificates that this machine trusts.
pub(crate) fn leaves_none(pins: &[CertificateDer<'_>], revoked: &document::Revocations) -> bool {
    !pins.is_empty() && pins.iter().all(|pin| is_revoked(pin, revoked))
}
