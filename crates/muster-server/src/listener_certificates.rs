//! The certificates that listeners present: how long they are valid, and whether their files could be read again.
//!
//! Stays true: what cannot be used replaces nothing that can; that the last reading failed is known until a later one
//! succeeds. Not here: how certificates are made and read (`pki`), and the TLS of listeners.

use crate::observe::Chain;
use crate::pki::{CertificateFiles, CertificateSlot, Certificates, PkiError, ServerCertificate};
use muster_core::Timestamp;
use rustls_pki_types::CertificateDer;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::{error, info};

/// A certificate from files, for a listener that has its own; read again when asked.
#[derive(Debug)]
pub struct FileCertificate {
    files: CertificateFiles,
    slot: Arc<CertificateSlot>,
    present: Mutex<ServerCertificate>,
}

impl FileCertificate {
    /// Reads the files.
    ///
    /// # Errors
    /// They cannot be read, or the key does not belong to the certificate.
    pub fn open(files: CertificateFiles) -> Result<Self, PkiError> {
        let present = files.read()?;
        let slot = Arc::new(CertificateSlot::new(Arc::clone(&present.certified)));
        Ok(Self { files, slot, present: Mutex::new(present) })
    }

    /// Returns what TLS listeners ask for the certificate.
    pub fn slot(&self) -> Arc<CertificateSlot> {
        Arc::clone(&self.slot)
    }

    /// Reads the files again; returns whether they hold another certificate now. On an error the present one stays.
    ///
    /// # Errors
    /// They cannot be read, others could have changed them or can read the key, or the key does not belong to the
    /// certificate.
    pub fn reload(&self) -> Result<bool, PkiError> {
        let new = self.files.read_again()?;
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = new.certified.cert != present.certified.cert;
        if is_other {
            self.slot.set(Arc::clone(&new.certified));
            *present = new;
        }
        Ok(is_other)
    }

    fn present(&self) -> ServerCertificate {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a listener presents now.
#[derive(Debug, Clone)]
pub struct Presented {
    /// The section of the configuration: `agents`, `operators` or `admin`.
    pub section: &'static str,
    /// From when to when it is valid.
    pub dates: (Timestamp, Timestamp),
    /// The certificate itself; `None` when this server makes it.
    pub from_files: Option<CertificateDer<'static>>,
    /// Why it could not be renewed or read again when that was tried last.
    pub failure: Option<String>,
}

/// The certificates of all listeners of a server.
#[derive(Debug)]
pub struct ListenerCertificates(Mutex<Vec<Entry>>);

#[derive(Debug)]
struct Entry {
    section: &'static str,
    source: Source,
    failure: Option<String>,
}

#[derive(Debug)]
enum Source {
    Agents(Arc<Certificates>),
    File(FileCertificate),
}

impl Source {
    fn reload(&self) -> Result<bool, PkiError> {
        match self {
            Self::Agents(certificates) => certificates.renew_if_due(),
            Self::File(certificate) => certificate.reload(),
        }
    }

    fn present(&self) -> ServerCertificate {
        match self {
            Self::Agents(certificates) => certificates.present(),
            Self::File(certificate) => certificate.present(),
        }
    }

    fn is_from_files(&self) -> bool {
        match self {
            Self::Agents(certificates) => certificates.is_from_files(),
            Self::File(_) => true,
        }
    }
}

impl ListenerCertificates {
    /// Begins with that of the agents' listener.
    pub fn new(agents: Arc<Certificates>) -> Self {
        let entry = Entry { section: "agents", source: Source::Agents(agents), failure: None };
        Self(Mutex::new(vec![entry]))
    }

    /// Adds the one of a listener that has its own.
    pub fn add(&self, section: &'static str, certificate: FileCertificate) {
        self.entries().push(Entry { section, source: Source::File(certificate), failure: None });
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes those that are due, and reads the files of the others again. Each that fails is logged as an error, and the
    /// listener keeps the one that it has. Returns whether all went well.
    pub fn reload(&self) -> bool {
        let mut all_well = true;
        for entry in self.entries().iter_mut() {
            let section = entry.section;
            match entry.source.reload() {
                Ok(is_other) => {
                    entry.failure = None;
                    if is_other {
                        let until = entry.source.present().not_after;
                        info!(section, "the {section} listener has another certificate now, valid until {until}");
                    }
                }
                Err(failure) => {
                    all_well = false;
                    let why = Chain(&failure).to_string();
                    error!(
                        error = why,
                        "the {section} listener keeps the certificate that it has: a new one cannot be used"
                    );
                    entry.failure = Some(why);
                }
            }
        }
        all_well
    }

    /// Returns what the listeners present.
    pub fn presented(&self) -> Vec<Presented> {
        let entries = self.entries();
        let present = entries.iter().map(|entry| {
            let certificate = entry.source.present();
            let first = certificate.certified.cert.first().filter(|_| entry.source.is_from_files());
            Presented {
                section: entry.section,
                dates: (certificate.not_before, certificate.not_after),
                from_files: first.cloned(),
                failure: entry.failure.clone(),
            }
        });
        present.collect()
    }
}
