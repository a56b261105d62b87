//! Certificates of the server: an own authority whose key all servers share, and a certificate for each server.
//!
//! Stays true: of servers that start at once on one database, all end up with the same authority; a server's own key
//! never leaves its memory; a certificate that is about to end is replaced while connections go on.
//! Not here: TLS settings and listeners (`tls`, `transport`, `admin`), certificates of agents (they sign their own).

use crate::private_file;
use muster_core::{Clock, Timestamp};
use muster_store::{Store, StoreError};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// How long a new authority lasts (10 years).
const AUTHORITY_LIFE: Duration = Duration::from_hours(3652 * 24);
/// How long a new server certificate lasts unless configured (1 year).
pub const CERTIFICATE_LIFE: Duration = Duration::from_hours(365 * 24);
/// How far back a certificate's validity starts, for machines whose clocks are slow.
const BACKDATED: Duration = Duration::from_hours(24);
/// The settings that hold the authority. The key comes first: see [`Authority::open`].
const SETTING_KEY: &str = "ca_key";
const SETTING_CERTIFICATE: &str = "ca_certificate";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The database did not give or take the authority.
    #[error("could not read or store the certificate authority in the database")]
    Store(#[source] StoreError),
    /// What the database holds is not an authority.
    #[error("the setting {setting} in the database is not usable: restore a backup")]
    Setting {
        /// Which setting.
        setting: &'static str,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A certificate could not be made.
    #[error("could not make a certificate for {names}: check tls.names in the configuration")]
    Make {
        /// For whom.
        names: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A file could not be read or written.
    #[error("could not {doing} {path}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Others could have changed the files of a certificate, or can read its key.
    #[error("{path} and its key are not the server's alone")]
    Ownership {
        /// The certificate.
        path: PathBuf,
        /// Which file, and what to do.
        #[source]
        source: crate::ownership::OwnershipError,
    },
    /// A file does not hold what the configuration says.
    #[error("{path}: {problem}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and what belongs there.
        problem: String,
    },
}

/// Where the server's certificate comes from.
#[derive(Debug, Clone)]
pub struct PkiOptions {
    /// The data directory, which gets a copy of the authority's certificate as `ca.pem`.
    pub data: PathBuf,
    /// Names and addresses by which agents reach this server, besides those found out ([`found_names`]).
    pub names: Vec<String>,
    /// How long a certificate lasts; it is replaced when two thirds of that are over.
    pub life: Duration,
    /// Files to take the certificate from, instead of making one.
    pub files: Option<CertificateFiles>,
}

/// A certificate that somebody else makes.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// PEM: the server's certificate, then intermediate ones.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// PEM: what agents are to trust. `None`: the last certificate of `certificate`.
    pub authority: Option<PathBuf>,
}

/// The authority that all servers on one database share.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate: CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

fn setting(setting: &'static str) -> impl Fn(rcgen::Error) -> PkiError {
    move |source| PkiError::Setting { setting, source: Box::new(source) }
}

impl Authority {
    /// Returns the authority of this database, making it when there is none.
    ///
    /// The key is settled first and the certificate made from the settled key, so that a certificate and a key of two
    /// servers that race can never be mixed.
    pub async fn open(store: &dyn Store, now: Timestamp) -> Result<Self, PkiError> {
        let make = |source| PkiError::Make { names: "the certificate authority".into(), source };
        let key_pem = if let Some(pem) = store.setting_get(SETTING_KEY).await.map_err(PkiError::Store)? {
            pem
        } else {
            let new = KeyPair::generate().map_err(make)?.serialize_pem();
            store.setting_init(SETTING_KEY, new.into_bytes()).await.map_err(PkiError::Store)?
        };
        let key = KeyPair::from_pem(&text(SETTING_KEY, key_pem)?).map_err(setting(SETTING_KEY))?;
        let certificate = if let Some(pem) = store.setting_get(SETTING_CERTIFICATE).await.map_err(PkiError::Store)? {
            pem
        } else {
            let new = authority_params(now).self_signed(&key).map_err(make)?.pem();
            store.setting_init(SETTING_CERTIFICATE, new.into_bytes()).await.map_err(PkiError::Store)?
        };
        let certificate_pem = text(SETTING_CERTIFICATE, certificate)?;
        let broken = |source| PkiError::Setting { setting: SETTING_CERTIFICATE, source: Box::new(source) };
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(broken)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(setting(SETTING_CERTIFICATE))?;
        Ok(Self { issuer, certificate_pem, certificate })
    }

    /// Returns the certificate that agents and other servers trust, as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Makes a key and a certificate for a server with these names and addresses, valid for `life` from `now`.
    pub fn issue(&self, names: &[String], life: Duration, now: Timestamp) -> Result<ServerCertificate, PkiError> {
        let make = |source| PkiError::Make { names: names.join(", "), source };
        let key = KeyPair::generate().map_err(make)?;
        let mut params = CertificateParams::new(names).map_err(make)?;
        params.distinguished_name = subject("Muster server");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let (not_before, not_after) = (now.minus(BACKDATED), now.plus(life));
        valid(&mut params, not_before, not_after);
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?;
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .expect("a key and a certificate made a moment ago belong together");
        Ok(ServerCertificate { certified: Arc::new(certified), not_before, not_after, names: names.to_vec() })
    }
}

fn text(setting: &'static str, bytes: Vec<u8>) -> Result<String, PkiError> {
    String::from_utf8(bytes).map_err(|source| PkiError::Setting { setting, source: Box::new(source) })
}

fn subject(common_name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Muster");
    subject.push(DnType::CommonName, common_name);
    subject
}

fn authority_params(now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("Muster certificate authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, now.minus(BACKDATED), now.plus(AUTHORITY_LIFE));
    params
}

/// Sets the validity, in whole seconds as certificates have it.
fn valid(params: &mut CertificateParams, from: Timestamp, to: Timestamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + from.since(Timestamp::EPOCH);
    params.not_after = epoch + to.since(Timestamp::EPOCH);
}

/// A server's certificate with its key, ready for TLS.
#[derive(Debug, Clone)]
pub struct ServerCertificate {
    /// The chain and the key.
    pub certified: Arc<CertifiedKey>,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// For which names and addresses.
    pub names: Vec<String>,
}

/// The certificate that new connections are answered with; it can be changed at any time.
#[derive(Debug)]
pub struct CertificateSlot(RwLock<Arc<CertifiedKey>>);

impl CertificateSlot {
    pub(crate) fn new(certified: Arc<CertifiedKey>) -> Self {
        Self(RwLock::new(certified))
    }

    pub(crate) fn set(&self, certified: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
    }

    /// Returns the present certificate.
    pub fn get(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for CertificateSlot {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

/// The server's certificate over its whole life: made or read at the start, replaced in time.
#[derive(Debug)]
pub struct Certificates {
    source: Source,
    slot: Arc<CertificateSlot>,
    present: Mutex<ServerCertificate>,
    trust_pem: String,
    authority_pem: String,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
enum Source {
    Made { authority: Box<Authority>, names: Vec<String>, life: Duration },
    Read(CertificateFiles),
}

impl Source {
    fn certificate(&self, now: Timestamp) -> Result<ServerCertificate, PkiError> {
        match self {
            Self::Made { authority, names, life } => authority.issue(names, *life, now),
            Self::Read(files) => files.read(),
        }
    }
}

impl Certificates {
    /// Makes or reads the certificate, and leaves what agents trust in `ca.pem` of the data directory.
    ///
    /// The database's authority is opened in any case, because servers wake each other through it.
    pub async fn open(store: &dyn Store, options: &PkiOptions, clock: Arc<dyn Clock>) -> Result<Self, PkiError> {
        let now = clock.now();
        let authority = Authority::open(store, now).await?;
        let authority_pem = authority.certificate_pem().to_owned();
        let (source, trust_pem) = if let Some(files) = &options.files {
            (Source::Read(files.clone()), files.trust_pem()?)
        } else {
            let trust = authority.certificate_pem().to_owned();
            let authority = Box::new(authority);
            (Source::Made { authority, names: all_names(&options.names), life: options.life }, trust)
        };
        let present = source.certificate(now)?;
        let path = options.data.join("ca.pem");
        private_file::write(&path, trust_pem.as_bytes(), private_file::Readers::All)
            .map_err(|source| PkiError::File { doing: "write", path, source })?;
        let slot = Arc::new(CertificateSlot::new(Arc::clone(&present.certified)));
        Ok(Self { source, slot, present: Mutex::new(present), trust_pem, authority_pem, clock })
    }

    /// Returns what TLS listeners ask for the certificate.
    pub fn slot(&self) -> Arc<CertificateSlot> {
        Arc::clone(&self.slot)
    }

    /// Returns what agents must trust to believe this server, as PEM.
    pub fn trust_pem(&self) -> &str {
        &self.trust_pem
    }

    /// Returns the authority that all servers on this database share, as PEM; it is what agents trust unless the
    /// certificate is from files.
    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// Whether the certificate is from files, and not of this server's authority.
    pub fn is_from_files(&self) -> bool {
        matches!(self.source, Source::Read(_))
    }

    /// Returns the present certificate.
    pub fn present(&self) -> ServerCertificate {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the certificate if two thirds of its life are over, or if its files have changed. Returns whether it
    /// did. To be called now and then; an hour apart is often enough.
    pub fn renew_if_due(&self) -> Result<bool, PkiError> {
        let (now, present) = (self.clock.now(), self.present());
        if matches!(self.source, Source::Made { .. }) && now < renewal_due(&present) {
            return Ok(false);
        }
        let new = match &self.source {
            Source::Made { .. } => self.source.certificate(now)?,
            Source::Read(files) => files.read_again()?,
        };
        if new.certified.cert == present.certified.cert {
            return Ok(false);
        }
        self.slot.set(Arc::clone(&new.certified));
        *self.present.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(true)
    }
}

fn renewal_due(certificate: &ServerCertificate) -> Timestamp {
    certificate.not_before.plus(certificate.not_after.since(certificate.not_before) * 2 / 3)
}

impl CertificateFiles {
    /// Looks whether the files can be used; returns from when to when the certificate is valid.
    pub(crate) fn look(&self) -> Result<(Timestamp, Timestamp), PkiError> {
        self.trust_pem()?;
        self.read().map(|read| (read.not_before, read.not_after))
    }

    /// Reads the files while a server runs: what was made sure of at the start may have changed.
    ///
    /// # Errors
    /// As [`CertificateFiles::read`]; also when others can change the files, or read the key.
    pub(crate) fn read_again(&self) -> Result<ServerCertificate, PkiError> {
        crate::ownership::pair_check(&self.certificate, &self.key)
            .map_err(|source| PkiError::Ownership { path: self.certificate.clone(), source })?;
        self.read()
    }

    /// Reads the files.
    ///
    /// # Errors
    /// They cannot be read, or the key does not belong to the certificate.
    pub(crate) fn read(&self) -> Result<ServerCertificate, PkiError> {
        let chain = certificates_from(&self.certificate)?;
        let key_pem = read(&self.key)?;
        let content = |path: &Path, problem: String| PkiError::Content { path: path.to_owned(), problem };
        let key = PrivateKeyDer::from_pem_slice(&key_pem)
            .map_err(|error| content(&self.key, format!("no private key in PEM form ({error})")))?;
        let facts = validity(&chain[0]).map_err(|problem| content(&self.certificate, problem))?;
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| {
            content(&self.key, format!("the key does not belong to {} ({error})", self.certificate.display()))
        })?;
        let (not_before, not_after, names) = facts;
        Ok(ServerCertificate { certified: Arc::new(certified), not_before, not_after, names })
    }

    fn trust_pem(&self) -> Result<String, PkiError> {
        let path = self.authority.as_ref().unwrap_or(&self.certificate);
        let certificates = certificates_from(path)?;
        let trusted = match self.authority {
            Some(_) => certificates.as_slice(),
            None => certificates.last_chunk::<1>().map_or(&[][..], |last| last.as_slice()),
        };
        Ok(trusted.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect())
    }
}

/// Returns for which names and addresses the certificate in a file is valid.
pub fn file_names(path: &Path) -> Result<Vec<String>, PkiError> {
    let certificates = certificates_from(path)?;
    let facts = validity(&certificates[0]);
    facts.map(|(_, _, names)| names).map_err(|problem| PkiError::Content { path: path.to_owned(), problem })
}

fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    std::fs::read(path).map_err(|source| PkiError::File { doing: "read", path: path.to_owned(), source })
}

pub(crate) fn certificates_from(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let problem = |problem| PkiError::Content { path: path.to_owned(), problem };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| problem(format!("not readable as PEM ({error})")))?;
    if certificates.is_empty() {
        return Err(problem("no certificate in PEM form".into()));
    }
    Ok(certificates)
}

/// Reads from when to when a certificate is valid, and for which names.
pub fn validity(der: &CertificateDer<'_>) -> Result<(Timestamp, Timestamp, Vec<String>), String> {
    use x509_parser::extensions::GeneralName;
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|error| format!("not an X.509 certificate ({error})"))?;
    let moment = |time: x509_parser::time::ASN1Time| Timestamp::from_secs(time.timestamp());
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names =
        alternatives.iter().flat_map(|extension| &extension.value.general_names).filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|octets| IpAddr::from(octets).to_string()),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(|octets| IpAddr::from(octets).to_string()),
            },
            _ => None,
        });
    Ok((moment(certificate.validity().not_before), moment(certificate.validity().not_after), names.collect()))
}

/// Writes a PEM block.
fn pem(kind: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}

/// Returns names and addresses that this machine surely has: its host name, the address it reaches others from,
/// `localhost` and the loopback addresses.
pub fn found_names() -> Vec<String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut names = vec![host, "localhost".into(), "127.0.0.1".into(), "::1".into()];
    names.extend(outward_addresses().map(|address| address.to_string()));
    names
}

/// Returns the addresses that this machine reaches others from: IPv4, then IPv6, as far as it has them.
pub fn outward_addresses() -> impl Iterator<Item = IpAddr> {
    // Connecting a datagram socket sends nothing: it only asks the routing table which address would be used.
    [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")].into_iter().filter_map(|(from, to)| {
        let address = UdpSocket::bind(from).and_then(|socket| socket.connect(to).and_then(|()| socket.local_addr()));
        address.ok().map(|address| address.ip())
    })
}

/// Joins the configured names with those found out, without ports, repetitions and what no certificate can name.
fn all_names(configured: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let names = configured.iter().cloned().chain(found_names()).map(|name| without_port(&name));
    names.filter(|name| can_be_named(name) && seen.insert(name.clone())).collect()
}

/// Takes a port off `host:port`, `1.2.3.4:port` and `[::1]:port`.
fn without_port(name: &str) -> String {
    let name = name.trim();
    if let Ok(address) = name.parse::<SocketAddr>() {
        return address.ip().to_string();
    }
    if let Ok(address) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return address.to_string();
    }
    name.split_once(':').map_or(name, |(host, _)| host).to_ascii_lowercase()
}

fn can_be_named(name: &str) -> bool {
    match name.parse::<IpAddr>() {
        Ok(address) => !address.is_unspecified(),
        Err(_) => rustls_pki_types::DnsName::try_from(name.trim_start_matches("*.")).is_ok(),
    }
}

#[cfg(test)]
mod tests;
