//! Values: columns, paths into documents, texts, numbers, times, casts.

use super::super::token::TokenKind;
use super::super::{Column, Document, Form, Interval, Kind, Operand, Path, Shift, Step, Target, TargetError, evaluate};
use super::{Node, Parser, Result};
use crate::limits;

impl Parser {
    /// Reads a value and nothing else.
    pub(super) fn operand(&mut self) -> Result<Operand> {
        let position = self.position();
        match self.value()? {
            Node::Value(operand) => Ok(operand),
            Node::Condition(Target::Literal(value)) => {
                Err(TargetError::new(position, "no value is true or false by itself")
                    .hint(format!("documents hold texts: write '{value}'")))
            }
            Node::Condition(_) => Err(TargetError::new(position, "here must stand a value, not a condition")),
        }
    }

    pub(super) fn value(&mut self) -> Result<Node> {
        let position = self.position();
        match self.peek().clone() {
            TokenKind::Sign("(") => self.parenthesis(),
            TokenKind::Text(text) => {
                self.pass();
                Ok(Node::Value(Operand::Text(text)))
            }
            TokenKind::Number(_) | TokenKind::Sign("-") => self.number().map(Operand::Number).map(Node::Value),
            TokenKind::Word(word) => self.word(&word.to_ascii_lowercase()),
            TokenKind::Named(name) => {
                Err(TargetError::new(position, format!("the name @{name} is not written out here"))
                    .hint("what is signed holds no names: `muster target check` shows what it stands for"))
            }
            _ => Err(self.unexpected("a column, a text, a number or a condition")),
        }
    }

    pub(super) fn number(&mut self) -> Result<f64> {
        let position = self.position();
        let sign = if self.take_sign("-") { "-" } else { "" };
        let TokenKind::Number(digits) = self.peek() else { return Err(self.unexpected("a number")) };
        let number = evaluate::number(&format!("{sign}{digits}"));
        let number = number.ok_or_else(|| {
            TargetError::new(position, "a number has at most 15 digits before its point and 15 after it")
        })?;
        self.pass();
        Ok(number)
    }

    fn parenthesis(&mut self) -> Result<Node> {
        self.want_sign("(")?;
        self.deeper()?;
        let inner = self.or()?;
        self.want_sign(")")?;
        self.depth -= 1;
        match inner {
            Node::Value(operand) => self.after(operand).map(Node::Value),
            condition @ Node::Condition(_) => Ok(condition),
        }
    }

    fn word(&mut self, word: &str) -> Result<Node> {
        let position = self.position();
        self.pass();
        match word {
            "true" | "false" => return Ok(Node::Condition(Target::Literal(word == "true"))),
            "now" => return self.now().map(Node::Value),
            _ => {}
        }
        let mut name = word.to_owned();
        if word == "agents" && self.take_sign(".") {
            let TokenKind::Word(column) = self.pass() else { return Err(self.unexpected("a column")) };
            name = column.to_ascii_lowercase();
        }
        if let Some((column, _)) = Column::NAMED.iter().find(|(_, named)| *named == name) {
            return self.cast(Operand::Column(*column)).map(Node::Value);
        }
        let document = match name.as_str() {
            "environment" => Document::Environment,
            "tags" => Document::Tags,
            "os" | "fleet" => {
                let form = Form::Text(Step::Key(name));
                let path = Path { document: Document::Environment, steps: Vec::new(), form };
                return self.cast(Operand::Path(path)).map(Node::Value);
            }
            _ => return Err(unknown(position, &name)),
        };
        let path = Path { document, steps: Vec::new(), form: Form::Json };
        self.after(Operand::Path(path)).map(Node::Value)
    }

    fn now(&mut self) -> Result<Operand> {
        self.want_sign("(")?;
        self.want_sign(")")?;
        let mut shifts = Vec::new();
        loop {
            let back = self.take_sign("-");
            if !back && !self.take_sign("+") {
                return Ok(Operand::Now(shifts));
            }
            self.want_word("INTERVAL")?;
            let place = self.position();
            let text = self.want_text()?;
            let interval = Interval::parse(&text).ok_or_else(|| {
                let error = TargetError::new(place, format!("{text:?} is no length of time"));
                error.hint("write a number and a unit: '90 seconds', '5 minutes', '2 hours', '30 days', '1 month'")
            })?;
            shifts.push(Shift { back, interval });
        }
    }

    /// Reads steps into a document and casts after it.
    fn after(&mut self, operand: Operand) -> Result<Operand> {
        let Operand::Path(mut path) = operand else { return self.cast(operand) };
        let before = path.length();
        while path.form == Form::Json {
            let place = self.position();
            if self.take_sign("->") {
                let step = self.step()?;
                path.steps.push(step);
            } else if self.take_sign("->>") {
                path.form = Form::Text(self.step()?);
            } else if self.take_sign("#>>") {
                path.form = Form::Deep(self.steps()?);
            } else {
                break;
            }
            let max = limits::TARGET_PATH_STEPS_MAX;
            if path.length() > max {
                return Err(TargetError::new(place, format!("a path has at most {max} steps")));
            }
        }
        if path.length() > before && matches!(self.peek(), TokenKind::Sign("::")) {
            let error = self.error("this reads the key, and not what stands under it, as something else");
            return Err(error.hint("put parentheses around the path: (tags->>'size')::numeric"));
        }
        if is_public_ip(&path) {
            return Ok(Operand::Column(Column::PublicIp));
        }
        self.cast(Operand::Path(path))
    }

    fn step(&mut self) -> Result<Step> {
        if let TokenKind::Text(_) = self.peek() {
            return self.want_text().map(Step::Key);
        }
        let place = self.position();
        let number = self.number()?;
        let index = number.to_string().parse();
        index.map(Step::Index).map_err(|_| TargetError::new(place, "a place in a list is a whole number"))
    }

    /// Reads the steps of `#>>`, an array as PostgreSQL writes it.
    fn steps(&mut self) -> Result<Vec<String>> {
        let place = self.position();
        let text = self.want_text()?;
        let error = || {
            let error = TargetError::new(place, format!("{text:?} is no path"));
            error.hint("write the keys between braces, with commas: '{os}', '{addresses,0}'")
        };
        let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or_else(error)?;
        if inner.is_empty() {
            return Ok(Vec::new());
        }
        let steps: Vec<String> = inner.split(',').map(str::to_owned).collect();
        let fits = |step: &String| {
            !step.is_empty()
                && !step.eq_ignore_ascii_case("null")
                && !step.starts_with('+')
                && !step.contains(|letter: char| letter.is_whitespace() || "{}\"\\".contains(letter))
        };
        if steps.iter().all(fits) { Ok(steps) } else { Err(error()) }
    }

    fn cast(&mut self, mut operand: Operand) -> Result<Operand> {
        while self.take_sign("::") {
            let place = self.position();
            let TokenKind::Word(word) = self.pass() else { return Err(self.unexpected("a kind, such as text")) };
            let word = word.to_ascii_lowercase();
            let number = match word.as_str() {
                "text" => false,
                "int" | "integer" | "bigint" | "numeric" | "float" | "float8" | "real" => true,
                "double" => {
                    self.want_word("precision")?;
                    true
                }
                _ => {
                    let error = TargetError::new(place, format!("nothing can be read as {word}"));
                    return Err(error.hint("text and numeric are known"));
                }
            };
            operand = match (operand, number) {
                (Operand::Path(Path { document, steps, form: Form::Json }), false) => {
                    Operand::Path(Path { document, steps, form: Form::Raw })
                }
                (operand, false) if operand.kind() == Kind::Text => operand,
                (operand, true) if operand.kind() == Kind::Number => operand,
                (operand, true) if operand.kind() == Kind::Text && !operand.is_literal() => {
                    Operand::Cast(Box::new(operand))
                }
                _ => return Err(TargetError::new(place, format!("this cannot be read as {word}"))),
            };
        }
        Ok(operand)
    }
}

/// Whether this is the address of the last contact, which stands in no document.
fn is_public_ip(path: &Path) -> bool {
    let is_it = match &path.form {
        Form::Text(Step::Key(key)) => key == "publicip",
        Form::Deep(steps) => matches!(&steps[..], [key] if key == "publicip"),
        _ => false,
    };
    is_it && path.document == Document::Environment && path.steps.is_empty()
}

fn unknown(position: usize, name: &str) -> TargetError {
    let error = TargetError::new(position, format!("{name} is no column"));
    match name {
        "env" => error.hint("write environment"),
        "host" | "hostname" | "fqdn" => error.hint("the name of a machine is name"),
        "arch" | "ident" | "init" => error.hint(format!("write environment->>'{name}'")),
        "label" | "labels" => error.hint(
            "labels that operators give are known to the server alone, and a target is decided by machines; labels that a \
             machine claims are its tags, such as tags->>'site'",
        ),
        "null" => error.hint("write IS NULL or IS NOT NULL"),
        "select" | "exists" | "case" | "cast" | "pg_sleep" | "coalesce" | "lower" | "upper" => {
            error.hint("a target knows no functions but NOW()")
        }
        _ => {
            let names: Vec<&str> = Column::NAMED.iter().map(|(_, name)| *name).collect();
            error.hint(format!("columns are {}, environment, tags, os and fleet", names.join(", ")))
        }
    }
}
