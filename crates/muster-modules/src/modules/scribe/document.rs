//! A scribe document: variables, objects to look at, tests over them.

use crate::module::Refused;
use crate::pattern;
use muster_core::limits::SEARCH_VALUES_MAX;
use serde::{Deserialize, Serialize};

/// A document.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Document {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) variables: Vec<Variable>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) objects: Vec<Object>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tests: Vec<Test>,
}

/// What `${key}` stands for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Variable {
    pub(super) key: String,
    pub(super) value: String,
}

/// Something to look at; one of its kinds is filled in.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Object {
    #[serde(rename = "object")]
    pub(super) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) filecontent: Option<FileContent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) filename: Option<FileName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hasline: Option<HasLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) package: Option<Package>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) raw: Option<Raw>,
}

/// What the groups of an expression match in lines of files.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct FileContent {
    pub(super) path: String,
    pub(super) file: String,
    pub(super) expression: String,
    pub(super) concat: String,
    #[serde(rename = "import-chain", skip_serializing_if = "Vec::is_empty")]
    pub(super) import_chain: Vec<String>,
}

/// What the first group of an expression matches in names of files.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct FileName {
    pub(super) path: String,
    pub(super) file: String,
    #[serde(rename = "import-chain", skip_serializing_if = "Vec::is_empty")]
    pub(super) import_chain: Vec<String>,
}

/// Whether files have a line that matches: `true` or `false` for each.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct HasLine {
    pub(super) path: String,
    pub(super) file: String,
    pub(super) expression: String,
}

/// The versions of installed packages.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Package {
    pub(super) name: String,
    /// Of several versions, only the newest.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) onlynewest: bool,
    /// Packages whose name matches this, instead of the one called `name`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) collectmatch: String,
}

/// Values that the document itself gives.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Raw {
    pub(super) identifiers: Vec<Identifier>,
}

/// A value with its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Identifier {
    pub(super) identifier: String,
    pub(super) value: String,
}

/// A test over what an object gives.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Test {
    #[serde(rename = "test")]
    pub(super) id: String,
    pub(super) name: String,
    pub(super) object: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) evr: Option<Evr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) regexp: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exactmatch: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tags: Vec<Tag>,
    /// Tests that must be true for this one to be.
    #[serde(rename = "if", skip_serializing_if = "Vec::is_empty")]
    pub(super) needs: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) expectedresult: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) expecterror: bool,
}

/// A comparison of versions.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Evr {
    pub(super) operation: String,
    pub(super) value: String,
}

/// A text to compare with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Value {
    pub(super) value: String,
}

/// A note on a test.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Tag {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) value: String,
}

/// The variable that stands for the directory of the file for which an import chain is followed, with `/` at its end.
pub(super) const CHAIN_ROOT: &str = "chain_root";

/// What an object looks at.
pub(super) enum Source<'a> {
    Package(&'a Package),
    FileContent(&'a FileContent),
    FileName(&'a FileName),
    HasLine(&'a HasLine),
    Raw(&'a Raw),
}

impl Object {
    /// Returns the kind that is filled in.
    pub(super) fn source(&self) -> Option<Source<'_>> {
        let package = self.package.as_ref().filter(|package| !package.name.is_empty()).map(Source::Package);
        let content = self.filecontent.as_ref().filter(|content| !content.path.is_empty()).map(Source::FileContent);
        let name = self.filename.as_ref().filter(|name| !name.path.is_empty()).map(Source::FileName);
        let line = self.hasline.as_ref().filter(|line| !line.path.is_empty()).map(Source::HasLine);
        let raw = self.raw.as_ref().filter(|raw| !raw.identifiers.is_empty()).map(Source::Raw);
        package.or(content).or(name).or(line).or(raw)
    }

    fn import_chain(&self) -> &[String] {
        let chain = self.filecontent.iter().map(|content| &content.import_chain);
        let mut chains = chain.chain(self.filename.iter().map(|name| &name.import_chain));
        chains.find(|chain| !chain.is_empty()).map_or(&[], Vec::as_slice)
    }

    fn validate(&self) -> Result<(), String> {
        if self.id.is_empty() {
            return Err("an object in document has no identifier".to_owned());
        }
        let inside = |why: String| format!("{}: {why}", self.id);
        let source = self.source().ok_or_else(|| inside("no valid source interface".to_owned()))?;
        source.validate().map_err(inside)
    }
}

impl Source<'_> {
    /// Returns what is looked at for each file that this found, with [`CHAIN_ROOT`] for the file's directory.
    pub(super) fn import_chain(&self) -> &[String] {
        match self {
            Self::FileContent(content) => &content.import_chain,
            Self::FileName(name) => &name.import_chain,
            Self::Package(_) | Self::HasLine(_) | Self::Raw(_) => &[],
        }
    }

    /// Tells whether this can be looked at only for a file that another object found.
    pub(super) fn is_link(&self) -> bool {
        self.path().is_some_and(|path| path.contains(&format!("${{{CHAIN_ROOT}}}")))
    }

    fn path(&self) -> Option<&str> {
        match self {
            Self::FileContent(content) => Some(&content.path),
            Self::FileName(name) => Some(&name.path),
            Self::HasLine(line) => Some(&line.path),
            Self::Package(_) | Self::Raw(_) => None,
        }
    }

    fn validate(&self) -> Result<(), String> {
        if let Some(path) = self.path().filter(|path| !path.starts_with('/') && !path.starts_with("${")) {
            return Err(format!("the path {:?} must begin with /", muster_core::text::cut(path, 64)));
        }
        match self {
            Self::Package(package) if package.collectmatch.is_empty() => Ok(()),
            Self::Package(package) => pattern::compile(&package.collectmatch).map(drop),
            Self::FileContent(content) => {
                expression("filecontent file", &content.file)?;
                expression("filecontent expression", &content.expression)
            }
            Self::FileName(name) => expression("filename file", &name.file),
            Self::HasLine(line) => {
                expression("hasline file", &line.file)?;
                expression("hasline expression", &line.expression)
            }
            Self::Raw(raw) => {
                let filled = |id: &Identifier| !id.identifier.is_empty() && !id.value.is_empty();
                let complete = raw.identifiers.iter().all(filled);
                complete.then_some(()).ok_or_else(|| "identifier must include identifier and value".to_owned())
            }
        }
    }
}

fn expression(what: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("{what} must be set"));
    }
    // A variable may stand for any part of the expression.
    if text.contains("${") { Ok(()) } else { pattern::compile(text).map(drop) }
}

impl Test {
    fn validate(&self, document: &Document) -> Result<(), String> {
        if self.id.is_empty() {
            return Err("a test in document has no identifier".to_owned());
        }
        for need in &self.needs {
            if *need == self.id {
                return Err(format!("{}: test cannot reference itself", self.id));
            }
            if document.test(need).is_none() {
                return Err(format!("{}: unknown test \"{need}\"", self.id));
            }
        }
        for tag in &self.tags {
            for (part, text) in [("key", &tag.key), ("value", &tag.value)] {
                if text.contains('"') {
                    return Err(format!("{}: test tag {part} cannot contain quote", self.id));
                }
            }
        }
        Ok(())
    }
}

impl Document {
    /// Returns the place of the test called `id`.
    pub(super) fn test(&self, id: &str) -> Option<usize> {
        self.tests.iter().position(|test| test.id == id)
    }

    /// Returns the object called `id`: of several, the first.
    pub(super) fn object(&self, id: &str) -> Option<&Object> {
        self.objects.iter().find(|object| object.id == id)
    }

    /// Makes sure that every import chain names objects that there are, and comes to an end.
    fn chains_check(&self) -> Result<(), String> {
        for object in self.objects.iter().filter(|object| !object.import_chain().is_empty()) {
            // Everything that the object leads to: itself must not be among it.
            let mut reached: Vec<&str> = Vec::new();
            let mut open: Vec<&Object> = vec![object];
            while let Some(next) = open.pop() {
                for id in next.import_chain() {
                    let Some(linked) = self.object(id) else {
                        return Err(format!("{}: import-chain: unknown object \"{id}\"", next.id));
                    };
                    if linked.id == object.id {
                        return Err(format!("{}: the import-chain leads back to the object itself", object.id));
                    }
                    if !reached.contains(&linked.id.as_str()) {
                        reached.push(&linked.id);
                        open.push(linked);
                    }
                }
            }
        }
        Ok(())
    }

    /// Tells whether the document can be run.
    pub(super) fn validate(&self) -> Result<(), Refused> {
        let lists = [self.variables.len(), self.objects.len(), self.tests.len()];
        if lists.into_iter().any(|length| length > 10 * SEARCH_VALUES_MAX) {
            return Err(Refused(format!("the document has more than {} entries of one kind", 10 * SEARCH_VALUES_MAX)));
        }
        self.objects.iter().try_for_each(Object::validate).map_err(Refused)?;
        self.chains_check().map_err(Refused)?;
        self.tests.iter().try_for_each(|test| test.validate(self)).map_err(Refused)
    }
}
