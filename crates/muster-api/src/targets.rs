//! Targets: expressions that pick machines, and those that are kept under a name.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A target to look at.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetCheckRequest {
    /// The expression; names of kept targets stand in it as `@name`.
    pub target: String,
    /// Machines to look at by their ids, whether they match or not; without any, the first that match, or where none does,
    /// those that come nearest.
    #[serde(default)]
    pub agents: Vec<String>,
    /// How many machines that match are shown, 0 to 100; 10 unless told.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// What a target means.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TargetCheck {
    /// The expression with its names written out, as it is signed.
    pub target: String,
    /// Why it is no target; then nothing below is filled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TargetMistake>,
    /// How many enrolled machines it picks.
    pub matched: u64,
    /// How many of them are online or idle: those that an action is given to.
    pub reached: u64,
    /// How many machines are enrolled.
    #[serde(default)]
    pub enrolled: u64,
    /// Where it picks none, how many of the enrolled machines were looked at for those that come nearest.
    #[serde(default)]
    pub compared: u64,
    /// Machines, and why they are picked or not.
    pub machines: Vec<TargetMachine>,
}

/// What is wrong with an expression, and where.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TargetMistake {
    /// What is wrong.
    pub message: String,
    /// Where: characters of `target` before the place.
    pub position: u64,
    /// What to write instead, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A machine, as a target sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TargetMachine {
    /// Its id, 16 hexadecimal digits.
    pub agent: String,
    /// Its name.
    pub name: String,
    /// `online`, `idle`, `offline` or `destroyed`.
    pub status: String,
    /// Whether the target picks it.
    pub picked: bool,
    /// Each question of the target, in the order in which they stand.
    pub questions: Vec<TargetQuestion>,
}

/// A question of a target, and its answer on a machine.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TargetQuestion {
    /// The question.
    pub question: String,
    /// Whether it is true; absent when it is neither, because it compares with nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<bool>,
    /// What the machine has in the place that is asked about; absent for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// A target to keep.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedTargetRequest {
    /// The expression. Holds no names.
    pub expression: String,
    /// What it is for.
    #[serde(default)]
    pub description: String,
}

/// A target that is kept under a name.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NamedTargetRow {
    /// Its name; `@name` stands for it.
    pub name: String,
    /// The expression.
    pub expression: String,
    /// What it is for.
    pub description: String,
    /// When it was last put.
    pub changed: String,
    /// By whom.
    pub changed_by: String,
}
