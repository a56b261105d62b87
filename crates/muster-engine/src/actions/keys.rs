//! Investigators and their keys, and whose signatures an action has.
//!
//! Stays true: only keys of active investigators count; no key belongs to two of them; keys are read anew as soon as
//! any investigator has changed, on whichever server.

use super::Signatures;
use crate::engine::{Chain, Inner, OperatorError, lock};
use muster_core::action::{Fingerprint, InvestigatorId, InvestigatorStatus};
use muster_core::{Cause, Timestamp, limits, text};
use muster_store::StoreError;
use muster_store::investigators::{InvestigatorPut, InvestigatorRow};
use muster_trust::{Certificate, Keyring, verify};
use std::collections::BTreeMap;
use std::sync::Arc;
use tracing::warn;

/// An investigator to add.
#[derive(Debug, Clone, Default)]
pub struct NewInvestigator {
    /// The person's name.
    pub name: String,
    /// The person's public key, armored; `None` for somebody who only asks.
    pub public_key: Option<String>,
    /// What the person may do, as MIG's bits.
    pub permissions: u32,
}

/// The keys of all active investigators.
#[derive(Debug)]
pub(super) struct Keys {
    /// Of which rows these were read.
    version: Vec<(InvestigatorId, Timestamp)>,
    keyring: Keyring,
    people: BTreeMap<Fingerprint, InvestigatorRow>,
}

impl Keys {
    /// Returns the key of each investigator.
    pub(super) fn by_investigator(&self) -> BTreeMap<InvestigatorId, Fingerprint> {
        self.people.iter().map(|(fingerprint, row)| (row.id, fingerprint.clone())).collect()
    }

    /// Says why a key does not count if it is of one of these people, who are disabled.
    fn disabled(&self, key: &str) -> Option<String> {
        let owner = self.people.get(self.keyring.owner(key)?.fingerprint())?;
        Some(format!("the investigator {} is disabled (`muster investigator enable` takes that back)", owner.name))
    }

    fn read(rows: Vec<InvestigatorRow>) -> Self {
        let version = version(&rows);
        let mut certificates = Vec::new();
        let mut people = BTreeMap::new();
        for row in rows {
            let Some(key) = row.public_key.as_deref() else { continue };
            match Certificate::parse(key.as_bytes()) {
                Ok(certificate) => {
                    people.insert(certificate.fingerprint().clone(), row);
                    certificates.push(certificate);
                }
                Err(error) => warn!(investigator.id = %row.id, error = %error, "an investigator's key cannot be read"),
            }
        }
        let keyring = Keyring::new(certificates.clone()).unwrap_or_else(|error| {
            warn!(error = %Chain(&error), "two investigators share a key, the first one is believed");
            let texts: Vec<String> = certificates.iter().map(Certificate::to_armored).collect();
            Keyring::from_files(texts.iter().map(|text| ("", text.as_bytes()))).0
        });
        Self { version, keyring, people }
    }
}

fn version(rows: &[InvestigatorRow]) -> Vec<(InvestigatorId, Timestamp)> {
    rows.iter().map(|row| (row.id, row.modified)).collect()
}

impl Inner {
    pub(super) async fn keys(&self) -> Result<Arc<Keys>, OperatorError> {
        let rows = self.investigators_of(InvestigatorStatus::Active).await;
        let rows = rows.map_err(|failure| self.operator_error("look up the investigators", failure))?;
        let known = lock(&self.actions.keys).clone();
        if let Some(keys) = known.filter(|keys| keys.version == version(&rows)) {
            return Ok(keys);
        }
        let keys = blocking(move || Arc::new(Keys::read(rows))).await;
        *lock(&self.actions.keys) = Some(Arc::clone(&keys));
        Ok(keys)
    }

    async fn investigators_of(&self, status: InvestigatorStatus) -> Result<Vec<InvestigatorRow>, StoreError> {
        let (mut rows, limit) = (Vec::new(), limits::PAGE_ROWS_MAX);
        loop {
            let after = rows.last().map(|row: &InvestigatorRow| row.id);
            let page = self.store.investigator_page(Some(status), after, limit).await?;
            let is_last = page.len() < limit as usize;
            rows.extend(page);
            if is_last || rows.len() >= limits::KEYRING_KEYS_MAX {
                rows.truncate(limits::KEYRING_KEYS_MAX);
                return Ok(rows);
            }
        }
    }

    /// Says who signed `text`. As many signers as signatures, unless there are problems.
    pub(super) async fn signatures_verify(
        &self,
        text: &str,
        signatures: &[String],
        now: Timestamp,
    ) -> Result<Signatures, OperatorError> {
        let keys = self.keys().await?;
        let (text, signatures) = (text.to_owned(), signatures.to_vec());
        Ok(blocking(move || verify_all(&keys, &text, &signatures, now)).await)
    }

    /// Says of signatures that do not count when they are by people who were disabled: "unknown" is not what happened to
    /// them. For callers who may order something; strangers are not worth the look.
    pub(super) async fn signatures_explain(
        &self,
        all: &mut Signatures,
        signatures: &[String],
    ) -> Result<(), OperatorError> {
        if all.problems.is_empty() {
            return Ok(());
        }
        let disabled = self.keys_disabled().await?;
        for (number, line) in (1..).zip(signatures) {
            let issuers = muster_trust::signature::issuers(line).unwrap_or_default();
            let Some(why) = issuers.first().and_then(|key| disabled.disabled(key)) else { continue };
            let of_it = format!("signature {number} does not count: ");
            for problem in all.problems.iter_mut().filter(|problem| problem.starts_with(&of_it)) {
                *problem = format!("{of_it}{why}");
            }
        }
        Ok(())
    }

    async fn keys_disabled(&self) -> Result<Keys, OperatorError> {
        let rows = self.investigators_of(InvestigatorStatus::Disabled).await;
        let rows = rows.map_err(|failure| self.operator_error("look up the investigators", failure))?;
        Ok(blocking(move || Keys::read(rows)).await)
    }

    /// Adds those who will sign, by their keys, as far as that is said and not shown.
    pub(super) async fn signers_add(
        &self,
        signatures: &mut Signatures,
        signers: &[String],
    ) -> Result<(), OperatorError> {
        if signers.len() > limits::ACTION_SIGNATURES_MAX {
            let most = limits::ACTION_SIGNATURES_MAX;
            return Err(OperatorError::Invalid(format!("an action is signed by at most {most} people")));
        }
        let keys = self.keys().await?;
        let mut of_disabled = None;
        for key in signers {
            let owner = keys.keyring.owner(key).and_then(|owner| keys.people.get(owner.fingerprint()));
            match owner {
                Some(row) if signatures.signers.iter().any(|have| have.id == row.id) => {}
                Some(row) => signatures.signers.push(row.clone()),
                None => {
                    if of_disabled.is_none() {
                        of_disabled = Some(self.keys_disabled().await?);
                    }
                    let why = of_disabled.as_ref().and_then(|keys| keys.disabled(key));
                    let key = text::cut(key, limits::NAME_BYTES_MAX);
                    signatures.problems.push(match why {
                        Some(why) => format!("the key {key} does not count: {why}"),
                        None => format!(
                            "the key {key} is of no investigator of the server: `muster investigator add` says whose it is"
                        ),
                    });
                }
            }
        }
        Ok(())
    }

    pub(crate) async fn investigator_add(
        &self,
        new: NewInvestigator,
        cause: &Cause,
    ) -> Result<InvestigatorId, OperatorError> {
        // Whoever reads who signed must read the name that is there.
        text::free("name", &new.name, limits::NAME_BYTES_MAX)
            .and_then(|()| text::direction("name", &new.name))
            .map_err(|error| OperatorError::Invalid(error.to_string()))?;
        let certificate = match new.public_key {
            Some(key) => Some(self.key_check(key, None).await?),
            None => None,
        };
        let put = InvestigatorPut {
            name: new.name,
            fingerprint: certificate.as_ref().map(|certificate| certificate.fingerprint().clone()),
            public_key: certificate.as_ref().map(Certificate::to_armored),
            permissions: new.permissions,
        };
        let id = self.store.investigator_put(put, self.now(), cause).await;
        id.map_err(|failure| self.operator_error("add the investigator", failure))
    }

    pub(crate) async fn investigator_key_set(
        &self,
        id: InvestigatorId,
        key: String,
        cause: &Cause,
    ) -> Result<(), OperatorError> {
        let certificate = self.key_check(key, Some(id)).await?;
        let (fingerprint, key) = (certificate.fingerprint(), certificate.to_armored());
        let set = self.store.investigator_key_set(id, fingerprint, &key, self.now(), cause).await;
        set.map_err(|failure| self.operator_error("replace the investigator's key", failure))
    }

    /// Reads a key that must be able to sign now, and of which no part belongs to somebody other than `owner`.
    async fn key_check(&self, key: String, owner: Option<InvestigatorId>) -> Result<Certificate, OperatorError> {
        let (keys, now) = (self.keys().await?, self.now());
        blocking(move || {
            let certificate = Certificate::parse(key.as_bytes()).map_err(|error| invalid(&error))?;
            certificate.signing_keys(now).map_err(|error| {
                OperatorError::Invalid(format!("no key of {} can sign: {error}", certificate.fingerprint()))
            })?;
            let is_others = |have: &&Certificate| {
                keys.people.get(have.fingerprint()).is_some_and(|row| Some(row.id) != owner)
                    && have.fingerprint() != certificate.fingerprint()
            };
            let others = keys.keyring.certificates().iter().filter(is_others).cloned();
            let together = Keyring::new(others.chain([certificate.clone()]).collect());
            together.map_err(|error| OperatorError::Conflict(error.to_string()))?;
            Ok(certificate)
        })
        .await
    }
}

fn invalid(error: &dyn std::error::Error) -> OperatorError {
    OperatorError::Invalid(error.to_string())
}

fn verify_all(keys: &Keys, text: &str, signatures: &[String], now: Timestamp) -> Signatures {
    let mut all = Signatures { signers: Vec::new(), made: None, problems: Vec::new() };
    for (number, signature) in (1..).zip(signatures) {
        let signed = match verify(&keys.keyring, signature, text.as_bytes(), now) {
            Ok(signed) => signed,
            Err(error) => {
                all.problems.push(format!("signature {number} does not count: {error}"));
                continue;
            }
        };
        match keys.people.get(&signed.signer) {
            Some(row) if all.signers.iter().any(|have| have.id == row.id) => {
                all.problems.push(format!("signature {number} does not count: {} has signed before", row.name));
            }
            Some(row) => {
                all.signers.push(row.clone());
                all.made = all.made.max(Some(signed.made));
            }
            None => {
                all.problems.push(format!("signature {number} does not count: nobody has the key {}", signed.signer));
            }
        }
    }
    all
}

/// Runs what takes milliseconds of computing where it holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
