//! The one SELECT: whether an operation of an action found something.

use super::super::TargetError;
use super::super::token::TokenKind;
use super::{Parser, Result};

impl Parser {
    /// Reads the one SELECT that is known, after its parenthesis.
    pub(super) fn found(&mut self) -> Result<(u64, bool)> {
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
}
