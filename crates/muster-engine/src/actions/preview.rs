//! Previews: how many machines an action means, and how many of them will refuse it, as far as they told.
//!
//! Stays true: a preview decides nothing but whether an action waits for more signatures; it waits only if no machine
//! would run it and more signatures could change that. What the server notes of machines (`noted`) is told, and decides
//! nothing.

use super::Signatures;
use crate::engine::{Inner, OperatorError};
use muster_core::action::{Action, ActionId, Fingerprint};
use muster_core::target::Target;
use muster_core::{AgentId, Timestamp, limits};
use muster_store::actions::Spread;
use muster_store::investigators::{InvestigatorRow, TrustTold};
use muster_store::targets::{Reach, TargetQuery, TargetStates};
use muster_trust::weights::Assessment;
use muster_trust::{Acl, RefusalCode};
use std::collections::{BTreeMap, BTreeSet};

/// Machines that would refuse an action for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewRefusal {
    /// The kind of reason.
    pub code: RefusalCode,
    /// In words.
    pub reason: String,
    /// How many machines.
    pub agents: u64,
    /// Some of them.
    pub examples: Vec<AgentId>,
}

/// Whose word a demand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SaidBy {
    /// The machines said so themselves.
    Machines,
    /// The server notes it of machines that never said.
    Server,
}

impl SaidBy {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Machines => "machines",
            Self::Server => "server",
        }
    }
}

/// What one operation needs, and what the signatures bring.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationDemand {
    /// Its module.
    pub module: String,
    /// The least weight; `None`: nothing permits the module.
    pub need: Option<u64>,
    /// What the signers weigh there.
    pub have: u64,
}

/// Machines that demand the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewDemand {
    /// Whose word it is.
    pub said_by: SaidBy,
    /// Each operation, in their order.
    pub operations: Vec<OperationDemand>,
    /// How many machines.
    pub agents: u64,
    /// Some of them.
    pub examples: Vec<AgentId>,
}

impl PreviewDemand {
    /// Returns whether the signatures weigh enough for every operation.
    pub fn is_met(&self) -> bool {
        self.operations.iter().all(|operation| operation.need.is_some_and(|need| operation.have >= need))
    }
}

/// What would come of an action.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ActionPreview {
    /// Who signed.
    pub signers: Vec<InvestigatorRow>,
    /// The same signed bytes, if they were launched before.
    pub known: Option<ActionId>,
    /// Why signatures do not count, and why it could not run.
    pub problems: Vec<String>,
    /// Machines that it means, and that are reached.
    pub matched: u64,
    /// How those stand that it means and that are not reached; looked at where none is.
    pub beyond: TargetStates,
    /// Those that would run it.
    pub willing: u64,
    /// Those that would run it if everybody signed whom they believe.
    pub possible: u64,
    /// Those that never told what they demand.
    pub unknown: u64,
    /// Of these, machines of which the server notes something; at most [`limits::PREVIEW_NOTED_MAX`] are looked at.
    pub noted: u64,
    /// Those that would refuse it, most first.
    pub refusals: Vec<PreviewRefusal>,
    /// Whether any of them says that a module of it changes the machine.
    pub changes: bool,
    /// What weight is demanded, by machines that have all its modules and by the server's notes: most machines first,
    /// at most [`limits::PREVIEW_DEMANDS_MAX`].
    pub demands: Vec<PreviewDemand>,
}

/// How much a preview says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Whether the action starts at once, for a launch, which somebody waits for.
    Verdict,
    /// Also what is demanded, and what the server notes.
    Whole,
}

/// Machines that are named for one reason.
const EXAMPLES_MAX: usize = 5;

impl ActionPreview {
    /// Returns whether it starts at once; otherwise it waits for more signatures.
    pub fn is_ready(&self) -> bool {
        if self.signers.is_empty() {
            return false;
        }
        let lacks_weight = self.refusals.iter().any(|refusal| refusal.code == RefusalCode::Weight);
        self.problems.is_empty() && (self.willing > 0 || self.unknown > 0 || !lacks_weight)
    }

    /// Says why an action cannot run as it is, whatever happens to it: it would only use up its signatures. One that
    /// begins later, or is for machines that come later, may meet others than there are now.
    pub(super) fn impossible(&self, action: &Action, spread: &Spread, now: Timestamp) -> Option<String> {
        if spread.standing || action.valid_from > now {
            return None;
        }
        if let Some(most) = spread.hosts_max.filter(|most| self.matched > *most) {
            return Some(format!("it matches {} machines, and at most {most} are allowed", self.matched));
        }
        let lacks_weight = self.refusals.iter().find(|refusal| refusal.code == RefusalCode::Weight)?;
        let is_hopeless = self.willing + self.unknown + self.possible == 0;
        is_hopeless.then(|| format!("no machine would run it, whoever else signs: {}", lacks_weight.reason))
    }
}

impl Inner {
    pub(super) async fn preview_of(
        &self,
        action: &Action,
        signatures: &Signatures,
        (is_standing, detail): (bool, Detail),
        now: Timestamp,
    ) -> Result<ActionPreview, OperatorError> {
        let target = Target::parse(&action.target)
            .map_err(|error| OperatorError::Invalid(format!("the target cannot be read: {error}")))?;
        // As the work on actions will: a standing one reaches every machine in time.
        let reach = if is_standing { Reach::Enrolled } else { Reach::Active };
        let open = target.open_questions();
        let query = TargetQuery { target, now, reach };
        let beyond = query.target.clone();
        let groups = self.store.trust_groups(query.clone()).await;
        let groups = groups.map_err(|failure| self.operator_error("expand the target", failure))?;
        let signers = signatures.fingerprints();
        let mut preview = ActionPreview {
            signers: signatures.signers.clone(),
            problems: signatures.problems.clone(),
            ..ActionPreview::default()
        };
        let mut refusals: BTreeMap<(RefusalCode, String), (u64, Vec<AgentId>)> = BTreeMap::new();
        let mut demands = Demands::default();
        for group in groups {
            preview.matched += group.agents;
            // Weights that are too long to be reported are not foreseen.
            let Some(told) = group.told.filter(|told| !told.acl.is_empty()) else {
                preview.unknown += group.agents;
                continue;
            };
            preview.changes |= changes(&told, action);
            if detail == Detail::Whole
                && let Some(demand) = demand(&told, action, &signers)
            {
                demands.add(SaidBy::Machines, demand, group.agents, group.example);
            }
            if could(&told, action, &open) {
                preview.possible += group.agents;
            }
            match judge(&told, action, &signers, &open) {
                Ok(()) => preview.willing += group.agents,
                Err(refusal) => {
                    let (agents, examples) = refusals.entry(refusal).or_default();
                    *agents += group.agents;
                    if examples.len() < EXAMPLES_MAX {
                        examples.push(group.example);
                    }
                }
            }
        }
        if detail == Detail::Whole && (preview.matched == 0 || !is_standing) {
            let states = self.store.target_states(beyond, now).await;
            preview.beyond = states.map_err(|failure| self.operator_error("expand the target", failure))?;
        }
        if detail == Detail::Whole && preview.unknown > 0 {
            preview.noted = self.noted_add(query, action, &signers, &mut demands).await?;
        }
        preview.demands = demands.into_list();
        let refusals = refusals.into_iter();
        preview.refusals = refusals
            .map(|((code, reason), (agents, examples))| PreviewRefusal { code, reason, agents, examples })
            .collect();
        preview.refusals.sort_by_key(|refusal| std::cmp::Reverse(refusal.agents));
        Ok(preview)
    }
}

fn changes(told: &TrustTold, action: &Action) -> bool {
    let is_used = |name: &str| action.operations.iter().any(|operation| operation.module == name);
    told.modules.iter().any(|module| module.changes && is_used(&module.name))
}

/// Demands that were told, by what they are.
#[derive(Default)]
pub(super) struct Demands(BTreeMap<(SaidBy, Vec<OperationDemand>), (u64, Vec<AgentId>)>);

impl Demands {
    /// Adds machines that demand `operations`.
    pub(super) fn add(&mut self, said_by: SaidBy, operations: Vec<OperationDemand>, agents: u64, example: AgentId) {
        let (count, examples) = self.0.entry((said_by, operations)).or_default();
        *count += agents;
        if examples.len() < EXAMPLES_MAX {
            examples.push(example);
        }
    }

    fn into_list(self) -> Vec<PreviewDemand> {
        let demands = self.0.into_iter();
        let mut demands: Vec<_> = demands
            .map(|((said_by, operations), (agents, examples))| PreviewDemand { said_by, operations, agents, examples })
            .collect();
        demands.sort_by_key(|demand| (demand.said_by, std::cmp::Reverse(demand.agents)));
        demands.truncate(limits::PREVIEW_DEMANDS_MAX);
        demands
    }
}

/// Says what weights demand of operations.
pub(super) fn weigh<'a>(
    acl: &Acl,
    modules: impl IntoIterator<Item = (&'a str, u32)>,
    signers: &BTreeSet<Fingerprint>,
) -> Vec<OperationDemand> {
    let assessed = acl.assess(modules, signers).into_iter();
    assessed.map(|Assessment { module, need, have }| OperationDemand { module, need, have }).collect()
}

/// What a machine demands of those of an action's operations that it can run; `None`: of none.
fn demand(told: &TrustTold, action: &Action, signers: &BTreeSet<Fingerprint>) -> Option<Vec<OperationDemand>> {
    let modules = modules(told, action).ok()?;
    Some(weigh(&Acl::parse(told.acl.as_bytes()).unwrap_or_default(), modules, signers))
}

/// The module of each operation that the machine can run, with the weight that it demands itself. The others are answered
/// with that; an action without any is refused.
fn modules<'a>(told: &'a TrustTold, action: &Action) -> Result<Vec<(&'a str, u32)>, (RefusalCode, String)> {
    let known = |name: &str| told.modules.iter().find(|module| module.name == name);
    let modules = action.operations.iter().filter_map(|operation| known(&operation.module));
    let modules: Vec<_> = modules.map(|module| (module.name.as_str(), module.weight_min)).collect();
    match action.operations.first() {
        Some(operation) if modules.is_empty() => {
            Err((RefusalCode::UnknownModule, format!("there is no module {:?} on this machine", operation.module)))
        }
        _ => Ok(modules),
    }
}

/// Judges as a machine would that believes what it told. A list of weights that cannot be read permits nothing. `open`:
/// what only the server can say of the machines that the target means.
fn judge(
    told: &TrustTold,
    action: &Action,
    signers: &BTreeSet<Fingerprint>,
    open: &[String],
) -> Result<(), (RefusalCode, String)> {
    let modules = modules(told, action)?;
    if !open.is_empty() && changes(told, action) {
        let text = format!(
            "it changes machines, and they cannot decide by themselves whether they are meant ({}): name them by agentid, \
             name or tags",
            muster_core::text::cut(&open.join(", "), 200)
        );
        return Err((RefusalCode::TargetUndecidable, text));
    }
    let keyring: BTreeSet<Fingerprint> = told.keyring.iter().filter_map(|key| key.parse().ok()).collect();
    if let Some(stranger) = signers.difference(&keyring).next() {
        return Err((RefusalCode::KeyUnknown, format!("the key {stranger} is not in this machine's keyring")));
    }
    let acl = Acl::parse(told.acl.as_bytes()).unwrap_or_default();
    acl.permit(modules, signers).map_err(|error| (RefusalCode::Weight, error.to_string()))
}

/// Whether a machine would run an action that all signed whom it believes.
fn could(told: &TrustTold, action: &Action, open: &[String]) -> bool {
    let everybody = told.keyring.iter().filter_map(|key| key.parse().ok()).collect();
    judge(told, action, &everybody, open).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::action::{InvestigatorId, InvestigatorStatus};
    use muster_store::investigators::ModuleTold;

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    fn told() -> TrustTold {
        let weight = |name: &str, key: &str| format!(r#""{name}":{{"fingerprint":"{key}","weight":1}}"#);
        TrustTold {
            keyring: vec![ONE.into(), TWO.into()],
            acl: format!(
                r#"{{"default":{{"minimumweight":2,"investigators":{{{},{}}}}}}}"#,
                weight("a", ONE),
                weight("b", TWO)
            ),
            modules: vec![ModuleTold { name: "file".into(), weight_min: 1, changes: false }],
            ..TrustTold::default()
        }
    }

    fn code(told: &TrustTold, modules: &str, signers: &[&str]) -> Option<RefusalCode> {
        code_for(told, modules, signers, &[])
    }

    fn code_for(told: &TrustTold, modules: &str, signers: &[&str], open: &[String]) -> Option<RefusalCode> {
        let operations: Vec<_> = modules.split(' ').map(|module| format!(r#"{{"module":"{module}"}}"#)).collect();
        let json = format!(r#"{{"operations":[{}]}}"#, operations.join(","));
        let action = Action::parse(json.as_bytes()).unwrap();
        let signers = signers.iter().map(|key| key.parse().unwrap()).collect();
        judge(told, &action, &signers, open).err().map(|(code, _)| code)
    }

    #[test]
    fn a_machine_is_foreseen_by_what_it_told() {
        assert_eq!(code(&told(), "file", &[ONE, TWO]), None);
        assert_eq!(code(&told(), "file", &[ONE]), Some(RefusalCode::Weight));
        assert_eq!(code(&told(), "pkg", &[ONE, TWO]), Some(RefusalCode::UnknownModule));
        assert_eq!(code(&told(), "pkg file", &[ONE, TWO]), None, "one that is gone does not take the other along");
        assert_eq!(code(&told(), "pkg file", &[ONE]), Some(RefusalCode::Weight));
        let alone = TrustTold { keyring: vec![ONE.into()], ..told() };
        assert_eq!(code(&alone, "file", &[ONE, TWO]), Some(RefusalCode::KeyUnknown));
        let open = ["id = 7".to_owned()];
        assert_eq!(code_for(&told(), "file", &[ONE, TWO], &open), None, "a question may be asked anywhere");
        let mut changing = told();
        changing.modules[0].changes = true;
        assert_eq!(code_for(&changing, "file", &[ONE, TWO], &[]), None);
        assert_eq!(code_for(&changing, "file", &[ONE, TWO], &open), Some(RefusalCode::TargetUndecidable));
        let silent = TrustTold { acl: String::new(), ..told() };
        assert_eq!(code(&silent, "file", &[ONE, TWO]), Some(RefusalCode::Weight));
    }

    #[test]
    fn what_nobody_could_ever_have_run_is_impossible() {
        let json = r#"{"validfrom":"2026-01-02T03:04:05Z","operations":[{"module":"file"}]}"#;
        let action = Action::parse(json.as_bytes()).unwrap();
        let now = action.valid_from;
        assert!(could(&told(), &action, &[]));
        assert!(!could(&TrustTold { keyring: vec![ONE.into()], ..told() }, &action, &[]), "one of two");
        let refusal = |code| PreviewRefusal { code, reason: "too light".into(), agents: 3, examples: Vec::new() };
        let light = ActionPreview { matched: 3, refusals: vec![refusal(RefusalCode::Weight)], ..Default::default() };
        let said = |preview: &ActionPreview, spread: Spread| preview.impossible(&action, &spread, now);
        assert!(said(&light, Spread::default()).unwrap().contains("too light"));
        let standing = Spread { standing: true, hosts_max: Some(1), ..Spread::default() };
        assert_eq!(said(&light, standing), None, "others may come");
        assert_eq!(said(&ActionPreview { possible: 1, ..light.clone() }, Spread::default()), None, "it waits");
        assert_eq!(light.impossible(&action, &Spread::default(), now.minus(std::time::Duration::from_secs(1))), None);
        let three = ActionPreview { matched: 3, willing: 3, ..Default::default() };
        let most = |hosts_max| Spread { hosts_max: Some(hosts_max), ..Spread::default() };
        assert!(said(&three, most(2)).unwrap().contains("matches 3 machines, and at most 2"));
        assert_eq!(said(&three, most(3)), None);
    }

    #[test]
    fn an_action_waits_only_where_signatures_help() {
        let refusal = |code| PreviewRefusal { code, reason: String::new(), agents: 1, examples: Vec::new() };
        let signer = InvestigatorRow {
            id: InvestigatorId::new(1).unwrap(),
            name: "Ann".into(),
            fingerprint: None,
            public_key: None,
            status: InvestigatorStatus::Active,
            permissions: 0,
            created: Timestamp::EPOCH,
            modified: Timestamp::EPOCH,
            has_api_key: false,
        };
        let by_ann = || ActionPreview { signers: vec![signer.clone()], ..ActionPreview::default() };
        let with = |refusals| ActionPreview { matched: 1, refusals, ..by_ann() };
        assert!(!with(vec![refusal(RefusalCode::Weight)]).is_ready());
        assert!(with(vec![refusal(RefusalCode::UnknownModule)]).is_ready());
        assert!(ActionPreview { willing: 1, ..with(vec![refusal(RefusalCode::Weight)]) }.is_ready());
        assert!(ActionPreview { unknown: 1, ..with(vec![refusal(RefusalCode::Weight)]) }.is_ready());
        assert!(by_ann().is_ready());
        assert!(!ActionPreview { willing: 1, ..ActionPreview::default() }.is_ready(), "nobody signed");
    }
}
