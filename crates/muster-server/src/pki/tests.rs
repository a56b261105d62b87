use super::*;
use muster_core::Cause;
use muster_store::{SqlStore, StoreOptions};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::{RootCertStore, pki_types};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicI64, Ordering};
use tempfile::TempDir;

#[derive(Debug)]
struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(self.0.load(Ordering::SeqCst))
    }
}

const START: i64 = 1_800_000_000;

fn clock() -> Arc<HandClock> {
    Arc::new(HandClock(AtomicI64::new(START)))
}

async fn store(directory: &TempDir) -> SqlStore {
    let url = format!("sqlite:{}", directory.path().join("muster.db").display());
    SqlStore::migrate(&url).await.unwrap();
    SqlStore::open(&url, &StoreOptions::default()).await.unwrap()
}

fn options(directory: &TempDir) -> PkiOptions {
    let names = vec![
        "Muster.Example:4443".into(),
        "[2001:db8::7]:4443".into(),
        "0.0.0.0:4443".into(),
        "*.fleet.example".into(),
    ];
    PkiOptions { data: directory.path().into(), names, life: CERTIFICATE_LIFE, files: None }
}

/// Whether somebody who trusts `trust_pem` believes at `at` that this is `name`.
fn believes(trust_pem: &str, chain: &[CertificateDer<'static>], name: &str, at: Timestamp) -> bool {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(trust_pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let name = pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let at = pki_types::UnixTime::since_unix_epoch(at.since(Timestamp::EPOCH));
    verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], at).is_ok()
}

#[tokio::test]
async fn the_certificate_is_believed_under_every_name_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = Certificates::open(&store(&directory).await, &options(&directory), clock()).await.unwrap();
    let chain = certificates.slot().get().cert.clone();
    let now = Timestamp::from_secs(START);
    let right = ["muster.example", "a.fleet.example", "2001:db8::7", "localhost", "127.0.0.1", "::1"];
    for name in right {
        assert!(believes(certificates.trust_pem(), &chain, name, now), "{name}");
    }
    assert!(!believes(certificates.trust_pem(), &chain, "other.example", now));
    assert!(!believes(certificates.trust_pem(), &chain, "localhost", now.plus(CERTIFICATE_LIFE * 2)));
    // A machine whose clock is an hour slow believes it too.
    assert!(believes(certificates.trust_pem(), &chain, "localhost", now.minus(Duration::from_hours(1))));

    let file = directory.path().join("ca.pem");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), certificates.trust_pem());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    let names = validity(&chain[0]).unwrap().2;
    assert!(names.contains(&"127.0.0.1".to_owned()) && !names.contains(&"0.0.0.0".to_owned()), "{names:?}");
}

#[tokio::test]
async fn servers_that_start_at_once_share_one_authority() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory).await;
    let now = Timestamp::from_secs(START);
    let opened = futures_util::future::join_all((0..8).map(|_| Authority::open(&store, now))).await;
    let opened: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
    for authority in &opened {
        assert_eq!(authority.certificate_pem(), opened[0].certificate_pem());
        let issued = authority.issue(&["localhost".into()], CERTIFICATE_LIFE, now).unwrap();
        assert!(believes(opened[0].certificate_pem(), &issued.certified.cert, "localhost", now));
    }
}

#[tokio::test]
async fn a_certificate_is_replaced_when_two_thirds_of_its_life_are_over() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    let store = store(&directory).await;
    let certificates =
        Certificates::open(&store, &options(&directory), Arc::clone(&clock) as Arc<dyn Clock>).await.unwrap();
    let slot = certificates.slot();
    let first = slot.get();
    clock.0.fetch_add(200 * 86_400, Ordering::SeqCst);
    assert!(!certificates.renew_if_due().unwrap());
    clock.0.fetch_add(60 * 86_400, Ordering::SeqCst);
    assert!(certificates.renew_if_due().unwrap());
    let second = slot.get();
    assert_ne!(first.cert, second.cert);
    let later = Timestamp::from_secs(START + 500 * 86_400);
    assert!(believes(certificates.trust_pem(), &second.cert, "localhost", later));
    assert!(!certificates.renew_if_due().unwrap());
}

#[tokio::test]
async fn a_certificate_from_files_is_read_again_when_they_change() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory).await;
    let path = |name: &str| directory.path().join(name);
    let write = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(path("server.pem"), made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem();
        private_file::write(&path("server.key"), key.as_bytes(), private_file::Readers::Owner).unwrap();
        made.cert.pem()
    };
    let first = write(&["one.example"]);
    let files = CertificateFiles { certificate: path("server.pem"), key: path("server.key"), authority: None };
    let with = PkiOptions { files: Some(files), ..options(&directory) };
    let certificates = Certificates::open(&store, &with, clock()).await.unwrap();
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().into_owned();
    assert_eq!(der(certificates.trust_pem()), der(&first));
    assert_eq!(certificates.present().names, ["one.example"]);
    assert!(!certificates.renew_if_due().unwrap());
    write(&["two.example"]);
    assert!(certificates.renew_if_due().unwrap());
    assert_eq!(certificates.present().names, ["two.example"]);

    // A key of another certificate is refused, and what was there before stays.
    let other = rcgen::generate_simple_self_signed(vec!["x".into()]).unwrap();
    std::fs::write(path("server.key"), other.signing_key.serialize_pem()).unwrap();
    let error = certificates.renew_if_due().unwrap_err().to_string();
    assert!(error.contains("server.key") && error.contains("does not belong"), "{error}");
    assert_eq!(certificates.present().names, ["two.example"]);
    std::fs::write(path("server.pem"), "nothing").unwrap();
    let error = Certificates::open(&store, &with, clock()).await.unwrap_err().to_string();
    assert!(error.contains("server.pem") && error.contains("no certificate"), "{error}");
}

#[tokio::test]
async fn a_broken_authority_is_named_and_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory).await;
    let now = Timestamp::from_secs(START);
    muster_store::ClusterStore::setting_put(&store, SETTING_KEY, b"nonsense".to_vec(), now, &Cause::server())
        .await
        .unwrap();
    let error = Authority::open(&store, now).await.unwrap_err().to_string();
    assert!(error.contains("ca_key") && error.contains("backup"), "{error}");
}
