//! Writing a tree as text that parses to the same tree.

use super::{Case, Column, Comparison, Document, Form, Operand, Path, Step, Target, Test};
use std::fmt::{self, Display, Formatter, Write};

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(value) => write!(f, "{value}"),
            Self::And(parts) => join(f, parts, " AND "),
            Self::Or(parts) => join(f, parts, " OR "),
            Self::Not(part) => {
                f.write_str("NOT ")?;
                inner(f, part)
            }
            Self::Test(test) => write!(f, "{test}"),
        }
    }
}

fn join(f: &mut Formatter<'_>, parts: &[Target], word: &str) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(word)?;
        }
        inner(f, part)?;
    }
    Ok(())
}

fn inner(f: &mut Formatter<'_>, part: &Target) -> fmt::Result {
    match part {
        Target::And(_) | Target::Or(_) => write!(f, "({part})"),
        _ => write!(f, "{part}"),
    }
}

impl Display for Test {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let not = |negated: &bool| if *negated { "NOT " } else { "" };
        match self {
            Self::Compare { left, comparison, right } => write!(f, "{left} {} {right}", comparison.sign()),
            Self::Between { value, low, high, negated } => {
                write!(f, "{value} {}BETWEEN {low} AND {high}", not(negated))
            }
            Self::In { value, list, negated } => {
                write!(f, "{value} {}IN (", not(negated))?;
                for (index, item) in list.iter().enumerate() {
                    write!(f, "{}{item}", if index > 0 { ", " } else { "" })?;
                }
                f.write_str(")")
            }
            Self::IsNull { value, negated } => write!(f, "{value} IS {}NULL", not(negated)),
            Self::Like { value, pattern, case, negated } => {
                let word = if *case == Case::Ignored { "ILIKE" } else { "LIKE" };
                write!(f, "{value} {}{word} {}", not(negated), Quoted(pattern))
            }
            Self::Matches { value, pattern, case, negated } => {
                let (bang, star) = (if *negated { "!" } else { "" }, if *case == Case::Ignored { "*" } else { "" });
                write!(f, "{value} {bang}~{star} {}", Quoted(pattern))
            }
            Self::Found { action, found, negated } => write!(
                f,
                "id {}IN (SELECT agentid FROM commands, json_array_elements(commands.results) AS r \
                 WHERE actionid = {action} AND r#>>'{{foundanything}}' = '{found}')",
                not(negated)
            ),
        }
    }
}

impl Comparison {
    /// Returns the sign.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Column(Column::PublicIp) => f.write_str("environment->>'publicip'"),
            Self::Column(column) => {
                let named = Column::NAMED.iter().find(|(named, _)| named == column);
                f.write_str(named.map_or("", |(_, name)| name))
            }
            Self::Path(path) => write!(f, "{path}"),
            Self::Cast(inner) if matches!(**inner, Self::Column(_)) => write!(f, "{inner}::numeric"),
            Self::Cast(inner) => write!(f, "({inner})::numeric"),
            Self::Text(text) => write!(f, "{}", Quoted(text)),
            Self::Number(number) => write!(f, "{number}"),
            Self::Now(shifts) => {
                f.write_str("NOW()")?;
                shifts.iter().try_for_each(|shift| {
                    write!(f, " {} INTERVAL '{}'", if shift.back { '-' } else { '+' }, shift.interval)
                })
            }
            Self::Moment(moment) => write!(f, "'{moment}'"),
        }
    }
}

impl Display for Path {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let raw_with_steps = self.form == Form::Raw && !self.steps.is_empty();
        if raw_with_steps {
            f.write_char('(')?;
        }
        f.write_str(self.document.name())?;
        self.steps.iter().try_for_each(|step| write!(f, "->{step}"))?;
        match &self.form {
            Form::Json => Ok(()),
            Form::Raw => f.write_str(if raw_with_steps { ")::text" } else { "::text" }),
            Form::Text(step) => write!(f, "->>{step}"),
            Form::Deep(steps) => write!(f, "#>>{}", Quoted(&format!("{{{}}}", steps.join(",")))),
        }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "{}", Quoted(key)),
            Self::Index(index) => write!(f, "{index}"),
        }
    }
}

impl Display for Document {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.0.replace('\'', "''"))
    }
}
