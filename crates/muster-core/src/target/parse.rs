//! Reading a target.
//!
//! NOT binds closer than AND, AND closer than OR; a test closer than NOT. Depth is counted, so that no text makes the
//! reader run out of stack.

use super::token::{Token, TokenKind, tokens};
use super::{
    Case, Column, Comparison, Document, Form, Interval, Kind, Operand, Path, Shift, Step, Target, TargetError, Test,
    check, evaluate, like, regex,
};
use crate::limits;

type Result<T> = std::result::Result<T, TargetError>;

/// What stands where a condition or a value may stand.
enum Node {
    Condition(Target),
    Value(Operand),
}

pub(super) struct Parser {
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
}

/// Reads a text of at most `chars_max` characters.
pub(super) fn parse(text: &str, chars_max: usize) -> Result<Target> {
    let chars = text.chars().count();
    if chars > chars_max {
        let error =
            TargetError::new(chars_max, format!("a target has at most {chars_max} characters, this one {chars}"));
        return Err(error.hint("keep a part of it under a name, or tag the machines"));
    }
    let mut parser = Parser { tokens: tokens(text)?, next: 0, depth: 0 };
    let target = parser.condition()?;
    match parser.peek() {
        TokenKind::End => Ok(target),
        TokenKind::Sign(")") => Err(parser.error("this ) has no (")),
        _ => Err(parser.unexpected("AND, OR or the end")),
    }
}

impl Parser {
    fn peek(&self) -> &TokenKind {
        &self.tokens[self.next].kind
    }

    fn position(&self) -> usize {
        self.tokens[self.next].position
    }

    /// Passes over a token; the last one stays.
    fn pass(&mut self) -> TokenKind {
        let kind = self.peek().clone();
        if kind != TokenKind::End {
            self.next += 1;
        }
        kind
    }

    fn error(&self, message: impl Into<String>) -> TargetError {
        TargetError::new(self.position(), message)
    }

    fn unexpected(&self, wanted: &str) -> TargetError {
        let found = match self.peek() {
            TokenKind::Word(word) => format!("the word {word}"),
            TokenKind::Text(_) => "a text".to_owned(),
            TokenKind::Number(number) => format!("the number {number}"),
            TokenKind::Sign(sign) => (*sign).to_owned(),
            TokenKind::Named(name) => format!("the name @{name}"),
            TokenKind::End => "the end".to_owned(),
        };
        self.error(format!("here stands {found} where {wanted} must stand"))
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), TokenKind::Word(found) if found.eq_ignore_ascii_case(word))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let is_there = self.is_word(word);
        self.next += usize::from(is_there);
        is_there
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let is_there = matches!(self.peek(), TokenKind::Sign(found) if *found == sign);
        self.next += usize::from(is_there);
        is_there
    }

    fn want_word(&mut self, word: &str) -> Result<()> {
        if self.take_word(word) { Ok(()) } else { Err(self.unexpected(word)) }
    }

    fn want_sign(&mut self, sign: &str) -> Result<()> {
        if self.take_sign(sign) { Ok(()) } else { Err(self.unexpected(sign)) }
    }

    fn want_text(&mut self) -> Result<String> {
        if !matches!(self.peek(), TokenKind::Text(_)) {
            return Err(self.unexpected("a text between single quotes"));
        }
        let TokenKind::Text(text) = self.pass() else { unreachable!("it was looked at") };
        Ok(text)
    }

    fn deeper(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > limits::TARGET_DEPTH_MAX {
            return Err(self.error(format!("parentheses and NOT are nested deeper than {}", limits::TARGET_DEPTH_MAX)));
        }
        Ok(())
    }

    fn condition(&mut self) -> Result<Target> {
        let position = self.position();
        match self.or()? {
            Node::Condition(target) => Ok(target),
            Node::Value(operand) => Err(lonely(position, &operand)),
        }
    }

    fn or(&mut self) -> Result<Node> {
        self.row("OR", Self::and, Target::Or)
    }

    fn and(&mut self) -> Result<Node> {
        self.row("AND", Self::not, Target::And)
    }

    fn row(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Result<Node>,
        whole: fn(Vec<Target>) -> Target,
    ) -> Result<Node> {
        let position = self.position();
        let first = part(self)?;
        if !self.is_word(word) {
            return Ok(first);
        }
        let mut parts = vec![is_condition(position, first)?];
        while self.take_word(word) {
            let position = self.position();
            let next = part(self)?;
            parts.push(is_condition(position, next)?);
        }
        Ok(Node::Condition(whole(parts)))
    }

    fn not(&mut self) -> Result<Node> {
        if !self.take_word("NOT") {
            return self.test();
        }
        self.deeper()?;
        let position = self.position();
        let inner = self.not()?;
        self.depth -= 1;
        Ok(Node::Condition(Target::Not(Box::new(is_condition(position, inner)?))))
    }

    fn test(&mut self) -> Result<Node> {
        let left = match self.value()? {
            Node::Value(left) => left,
            condition @ Node::Condition(_) => return Ok(condition),
        };
        let position = self.position();
        if let TokenKind::Sign(sign) = self.peek() {
            let sign = *sign;
            if let Some(comparison) = comparison(sign) {
                self.pass();
                return self.compare(position, left, comparison).map(test);
            }
            if sign.contains('~') {
                self.pass();
                return self.matches(position, left, sign).map(test);
            }
            return Ok(Node::Value(left));
        }
        if self.take_word("IS") {
            let negated = self.take_word("NOT");
            self.want_word("NULL")?;
            return Ok(test(Test::IsNull { value: left, negated }));
        }
        let negated = self.take_word("NOT");
        if self.take_word("BETWEEN") {
            return self.between(position, left, negated).map(test);
        }
        if self.take_word("IN") {
            return self.is_in(position, left, negated).map(test);
        }
        for (word, case) in [("LIKE", Case::Counts), ("ILIKE", Case::Ignored)] {
            if self.take_word(word) {
                return self.is_like(position, left, case, negated).map(test);
            }
        }
        if negated { Err(self.unexpected("LIKE, ILIKE, IN or BETWEEN")) } else { Ok(Node::Value(left)) }
    }

    fn compare(&mut self, position: usize, mut left: Operand, comparison: Comparison) -> Result<Test> {
        if self.is_word("NULL") {
            return Err(self.error("nothing is equal to NULL").hint("write IS NULL or IS NOT NULL"));
        }
        let mut right = self.operand()?;
        check::pair(position, &mut left, &mut right)?;
        Ok(Test::Compare { left, comparison, right })
    }

    fn between(&mut self, position: usize, mut value: Operand, negated: bool) -> Result<Test> {
        let mut low = self.operand()?;
        self.want_word("AND")?;
        let mut high = self.operand()?;
        // Once more for the first pair: the second may have given the value its kind.
        check::pair(position, &mut value, &mut low)?;
        check::pair(position, &mut value, &mut high)?;
        check::pair(position, &mut value, &mut low)?;
        Ok(Test::Between { value, low, high, negated })
    }

    fn is_in(&mut self, position: usize, mut value: Operand, negated: bool) -> Result<Test> {
        self.want_sign("(")?;
        if self.is_word("SELECT") {
            if value != Operand::Column(Column::Id) {
                return Err(TargetError::new(position, "only id can be looked for in what a SELECT gives"));
            }
            let (action, found) = self.found()?;
            return Ok(Test::Found { action, found, negated });
        }
        let mut list = Vec::new();
        loop {
            let place = self.position();
            let mut item = self.operand()?;
            if !matches!(item, Operand::Text(_) | Operand::Number(_)) {
                return Err(TargetError::new(place, "a list holds texts and numbers only"));
            }
            check::pair(place, &mut value, &mut item)?;
            list.push(item);
            if list.len() > limits::TARGET_LIST_MAX {
                return Err(TargetError::new(
                    place,
                    format!("a list holds at most {} values", limits::TARGET_LIST_MAX),
                ));
            }
            if !self.take_sign(",") {
                break;
            }
        }
        // Once more: a later item may have given the value its kind.
        list.iter_mut().try_for_each(|item| check::pair(position, &mut value, item))?;
        self.want_sign(")")?;
        Ok(Test::In { value, list, negated })
    }

    fn is_like(&mut self, position: usize, value: Operand, case: Case, negated: bool) -> Result<Test> {
        check::text(position, &value)?;
        let place = self.position();
        let text = self.want_text()?;
        let mut escape = Some('\\');
        if self.take_word("ESCAPE") {
            let place = self.position();
            let sign = self.want_text()?;
            if sign.chars().count() > 1 {
                return Err(TargetError::new(place, "an escape is one character, or none"));
            }
            escape = sign.chars().next();
        }
        let pattern = like::with_backslashes(&text, escape).ok_or_else(|| {
            TargetError::new(place, "this pattern ends in its escape character").hint("write it twice for itself")
        })?;
        Ok(Test::Like { value, pattern, case, negated })
    }

    fn matches(&mut self, position: usize, value: Operand, sign: &str) -> Result<Test> {
        check::text(position, &value)?;
        let place = self.position();
        let pattern = self.want_text()?;
        let case = if sign.ends_with('*') { Case::Ignored } else { Case::Counts };
        regex::regex(&pattern, case).map_err(|error| {
            TargetError::new(place, error.to_string()).hint("docs/reference/targets.md lists what is known")
        })?;
        Ok(Test::Matches { value, pattern, case, negated: sign.starts_with('!') })
    }

    /// Reads the one SELECT that is known, after its parenthesis.
    fn found(&mut self) -> Result<(u64, bool)> {
        let start = self.position();
        self.found_inner().map_err(|error| {
            let known = "of SELECTs only this one is known: id IN (SELECT agentid FROM commands, \
                         json_array_elements(commands.results) AS r WHERE actionid = 1 AND \
                         r#>>'{foundanything}' = 'true')";
            TargetError { position: error.position.max(start), ..error }.hint(known)
        })
    }

    fn found_inner(&mut self) -> Result<(u64, bool)> {
        self.want_word("SELECT")?;
        self.column_of_commands("agentid")?;
        self.want_word("FROM")?;
        self.want_word("commands")?;
        self.want_sign(",")?;
        self.want_word("json_array_elements")?;
        self.want_sign("(")?;
        self.column_of_commands("results")?;
        self.want_sign(")")?;
        self.take_word("AS");
        let TokenKind::Word(alias) = self.peek().clone() else { return Err(self.unexpected("a name for the results")) };
        self.pass();
        self.want_word("WHERE")?;
        let (action, found);
        if self.is_word("actionid") || self.is_word("commands") {
            action = self.found_action()?;
            self.want_word("AND")?;
            found = self.found_anything(&alias)?;
        } else {
            found = self.found_anything(&alias)?;
            self.want_word("AND")?;
            action = self.found_action()?;
        }
        self.want_sign(")")?;
        Ok((action, found))
    }

    fn column_of_commands(&mut self, column: &str) -> Result<()> {
        if self.take_word("commands") {
            self.want_sign(".")?;
        }
        self.want_word(column)
    }

    fn found_action(&mut self) -> Result<u64> {
        self.column_of_commands("actionid")?;
        self.want_sign("=")?;
        let TokenKind::Number(digits) = self.peek() else { return Err(self.unexpected("the number of an action")) };
        let number = digits.parse().ok().filter(|number| *number < 1 << 53);
        let number = number.ok_or_else(|| self.unexpected("the number of an action"))?;
        self.pass();
        Ok(number)
    }

    fn found_anything(&mut self, alias: &str) -> Result<bool> {
        self.want_word(alias)?;
        let wanted = if self.take_sign("#>>") {
            "{foundanything}"
        } else {
            self.want_sign("->>")?;
            "foundanything"
        };
        let place = self.position();
        if self.want_text()? != wanted {
            return Err(TargetError::new(place, format!("here must stand '{wanted}'")));
        }
        self.want_sign("=")?;
        let place = self.position();
        match self.want_text()?.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(TargetError::new(place, "here must stand 'true' or 'false'")),
        }
    }

    /// Reads a value and nothing else.
    fn operand(&mut self) -> Result<Operand> {
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

    fn value(&mut self) -> Result<Node> {
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

    fn number(&mut self) -> Result<f64> {
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
            "os" => {
                let form = Form::Text(Step::Key("os".to_owned()));
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

fn test(test: Test) -> Node {
    Node::Condition(Target::Test(test))
}

fn is_condition(position: usize, node: Node) -> Result<Target> {
    match node {
        Node::Condition(target) => Ok(target),
        Node::Value(operand) => Err(lonely(position, &operand)),
    }
}

fn lonely(position: usize, operand: &Operand) -> TargetError {
    let error = TargetError::new(position, "a value alone is no condition");
    match operand {
        Operand::Column(_) | Operand::Path(_) => error.hint(format!("compare it: {operand} = '…'")),
        _ => error,
    }
}

fn comparison(sign: &str) -> Option<Comparison> {
    Some(match sign {
        "=" => Comparison::Equal,
        "<>" | "!=" => Comparison::NotEqual,
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        ">" => Comparison::Greater,
        ">=" => Comparison::GreaterOrEqual,
        _ => return None,
    })
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
        "null" => error.hint("write IS NULL or IS NOT NULL"),
        "select" | "exists" | "case" | "cast" | "pg_sleep" | "coalesce" | "lower" | "upper" => {
            error.hint("a target knows no functions but NOW()")
        }
        _ => {
            let names: Vec<&str> = Column::NAMED.iter().map(|(_, name)| *name).collect();
            error.hint(format!("columns are {}, environment, tags and os", names.join(", ")))
        }
    }
}
