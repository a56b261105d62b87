//! Rules and the engine that holds them against bytes. The only file that names the engine.
//!
//! Stays true: rules are one text and read nothing else (no includes); a text that is too long, and what does not
//! compile, is refused before any file is opened; holding rules against one file ends within its time.

use boreal::compiler::CompilerParams;
use boreal::scanner::{ScanError, ScanParams};
use boreal::{Compiler, Scanner};
use muster_core::limits::YARA_RULES_BYTES_MAX;
use muster_modules::Refused;
use std::time::Duration;

/// Compiled rules.
#[derive(Debug)]
pub(crate) struct Rules(Scanner);

/// Why no answer came of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotHeld {
    /// It took longer than it may.
    TooSlow,
    /// For another reason of the engine.
    Other(String),
}

impl Rules {
    /// Compiles rules.
    ///
    /// # Errors
    /// There are none, they are too long, or they are no rules: where, and why.
    pub(crate) fn compile(text: &str) -> Result<Self, Refused> {
        // MIG's words, which its users know.
        if text.is_empty() {
            return Err(Refused("yara rules are a required option".to_owned()));
        }
        if text.len() > YARA_RULES_BYTES_MAX {
            let have = text.len();
            return Err(Refused(format!(
                "the yara rules have {have} bytes, at most {YARA_RULES_BYTES_MAX} are allowed"
            )));
        }
        let mut compiler = Compiler::new();
        // An include would read a file of the machine with the module's rights, and tell of it in its error.
        compiler.set_params(CompilerParams::default().disable_includes(true));
        compiler
            .add_rules_str(text)
            .map_err(|error| Refused(format!("the yara rules cannot be compiled: {}", error.to_string().trim_end())))?;
        Ok(Self(compiler.finalize()))
    }

    /// Returns the names of the rules that match, in the order in which they were written.
    pub(crate) fn matching(&mut self, bytes: &[u8], time: Duration) -> Result<Vec<String>, NotHeld> {
        self.0.set_scan_params(ScanParams::default().timeout_duration(Some(time)));
        match self.0.scan_mem(bytes) {
            Ok(held) => Ok(held.rules.iter().map(|rule| rule.name.to_owned()).collect()),
            Err((ScanError::Timeout, _)) => Err(NotHeld::TooSlow),
            Err((error, _)) => Err(NotHeld::Other(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching(rules: &str, bytes: &[u8]) -> Vec<String> {
        Rules::compile(rules)
            .unwrap_or_else(|refused| panic!("{refused}"))
            .matching(bytes, Duration::from_secs(10))
            .unwrap()
    }

    fn refused(rules: &str) -> String {
        Rules::compile(rules).unwrap_err().0
    }

    #[test]
    fn rules_match_text_hexadecimal_expressions_and_conditions() {
        let rules = r#"
            rule text { strings: $a = "needle" wide ascii condition: $a }
            rule bytes { strings: $a = { DE AD ?? EF } condition: $a at 2 }
            rule expression { strings: $a = /n[e]{2}dle[0-9]+/ condition: $a and filesize < 1KB }
            private rule hidden { condition: true }
            rule refers { condition: hidden and text }
        "#;
        assert_eq!(matching(rules, b"a needle7"), ["text", "expression", "refers"]);
        assert_eq!(matching(rules, b"n\0e\0e\0d\0l\0e\0"), ["text", "refers"]);
        assert_eq!(matching(rules, &[0, 0, 0xDE, 0xAD, 0, 0xEF]), ["bytes"]);
        assert!(matching(rules, b"").is_empty());
    }

    #[test]
    fn rules_may_look_into_programs_and_take_hashes() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let rules = r#"import "elf" import "math" import "hash" import "pe"
            rule program { condition: elf.type == elf.ET_DYN or elf.type == elf.ET_EXEC }
            rule windows { condition: pe.is_pe }
            rule abc { condition: hash.sha256(0, filesize) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" }"#;
        assert_eq!(matching(rules, &program), ["program"]);
        assert_eq!(matching(rules, b"abc"), ["abc"]);
    }

    #[test]
    fn what_is_no_rule_is_refused_with_its_place() {
        assert_eq!(refused(""), "yara rules are a required option");
        let long = "/".repeat(YARA_RULES_BYTES_MAX + 1);
        assert_eq!(refused(&long), format!("the yara rules have {} bytes, at most 1048576 are allowed", long.len()));
        let broken = refused("rule a {\n  condition: $nothing\n}");
        assert!(broken.starts_with("the yara rules cannot be compiled: ") && broken.contains("2:"), "{broken}");
        let secret = refused("include \"/etc/shadow\"");
        assert!(secret.contains("include") && !secret.contains("root"), "{secret}");
        assert!(
            refused(&format!("rule a {{ condition: {}true{} }}", "(".repeat(500), ")".repeat(500))).contains("cannot")
        );
    }

    #[test]
    fn rules_that_take_too_long_are_given_up() {
        let rules =
            "rule slow { condition: for all i in (1..4000000000) : (for all j in (1..4000000000) : (i + j > 0)) }";
        let begun = std::time::Instant::now();
        let slow = Rules::compile(rules).unwrap().matching(b"x", Duration::from_millis(200));
        assert_eq!(slow, Err(NotHeld::TooSlow));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}
