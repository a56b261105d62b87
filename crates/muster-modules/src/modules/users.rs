//! users: the accounts of a machine, their groups, and who can log in.
//!
//! Stays true: only what everybody on the machine may read is looked at, never a password or its hash; a line is read as
//! glibc reads it, and one that cannot be read costs itself.

use super::list::{Unread, Wanted, at_most};
use crate::arguments::{ArgumentError, Flag, Given};
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::reading;
use crate::result::ModuleResult;
use crate::sandbox::Needs;
use serde::{Deserialize, Serialize};

pub(crate) struct Users;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Parameters {
    names: Vec<String>,
    groups: Vec<String>,
    uids: Vec<u32>,
    /// Only accounts with a shell.
    login: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Elements {
    users: Vec<User>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    description: String,
    home: String,
    shell: String,
    groups: Vec<String>,
    login: bool,
}

#[derive(Debug)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl Typed for Users {
    type Parameters = Parameters;
    const INFO: ModuleInfo = ModuleInfo {
        name: "users",
        summary: "local accounts and their groups",
        weight_min: 1,
        effect: Effect::Reads,
        privilege: Privilege::None,
        needs: Needs::SYSTEM,
    };
    const EXAMPLE: &'static str = "-group '^sudo$' -login";
    const FLAGS: &'static [Flag] = &[
        Flag::texts("name", "REGEX", "the account's name matches; !REGEX: it does not"),
        Flag::texts("group", "REGEX", "one of its groups matches"),
        Flag::texts("uid", "N", "the account's number"),
        Flag::switch("login", "only accounts that can log in to a shell"),
    ];

    fn from_flags(given: &Given) -> Result<Parameters, ArgumentError> {
        let number = |text: String| {
            text.parse().map_err(|_| ArgumentError::WrongValue { flag: "uid", wants: "a number", given: text })
        };
        let uids = given.texts("uid").into_iter().map(number).collect::<Result<_, _>>()?;
        Ok(Parameters { names: given.texts("name"), groups: given.texts("group"), uids, login: given.is_on("login") })
    }

    fn validate(parameters: &Parameters) -> Result<(), Refused> {
        Wanted::new(&parameters.names)?;
        Wanted::new(&parameters.groups).map(drop)
    }

    fn answer(parameters: Parameters, context: &Context) -> Result<ModuleResult, Refused> {
        let (names, groups) = (Wanted::new(&parameters.names)?, Wanted::new(&parameters.groups)?);
        let read = |path: &str| {
            let path = context.path(path);
            reading::text(&path).map_err(|error| reading::open_error(&path, &error))
        };
        let accounts = read("/etc/passwd").map_err(Refused)?;
        let mut errors = Vec::new();
        let table = read("/etc/group");
        // Who asks for a group is not told that nobody is in it.
        let is_known = table.is_ok() || parameters.groups.is_empty();
        let table = table.unwrap_or_else(|error| {
            errors.push(error);
            String::new()
        });
        let mut unread = Unread::default();
        let (mut groups_known, mut rows) = (Vec::new(), 0);
        for (line, number) in entries(&table) {
            rows += 1;
            match group(line) {
                Some(group) => groups_known.push(group),
                None => unread.add(number),
            }
        }
        errors.extend(unread.told(&context.path("/etc/group"), rows));
        let mut unread = Unread::default();
        let (mut users, mut rows) = (Vec::new(), 0);
        for (line, number) in entries(&accounts) {
            rows += 1;
            let Some(user) = user(line, &groups_known) else {
                unread.add(number);
                continue;
            };
            let wanted = names.wants(&user.name)
                && (parameters.groups.is_empty() || user.groups.iter().any(|group| groups.wants(group)))
                && (parameters.uids.is_empty() || parameters.uids.contains(&user.uid))
                && (user.login || !parameters.login);
            users.extend(wanted.then_some(user));
        }
        errors.extend(unread.told(&context.path("/etc/passwd"), rows));
        let cut = at_most(&mut users);
        let result = ModuleResult::ran(!users.is_empty(), Elements { users }, ());
        let result = result.with_cuts(cut.into_iter().collect()).with_errors(errors);
        Ok(ModuleResult { success: is_known, ..result })
    }

    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
        let elements: Elements = serde_json::from_value(result.elements.clone()).unwrap_or_default();
        let line = |user: &User| {
            let User { name, uid, gid, home, shell, groups, .. } = user;
            format!("{name} [uid:{uid}, gid:{gid}, home:{home}, shell:{shell}] groups {}", groups.join(","))
        };
        let mut out: Vec<_> = elements.users.iter().map(line).collect();
        if lines == Lines::All {
            out.extend(result.errors().iter().cloned());
        }
        out
    }
}

/// Returns the lines that name somebody, with their numbers: no notes, and none that sends to another table.
fn entries(table: &str) -> impl Iterator<Item = (&str, usize)> {
    let lines = table.lines().map(str::trim_start).zip(1..);
    lines.filter(|(line, _)| !line.is_empty() && !line.starts_with(['#', '+', '-']))
}

/// Reads an account as glibc does: the shell is the rest of the line, and what is missing behind the numbers is empty.
fn user(line: &str, groups: &[Group]) -> Option<User> {
    let mut fields = line.splitn(7, ':');
    let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let [description, home, shell] = [(); 3].map(|()| fields.next().unwrap_or_default());
    let gid = gid.parse().ok()?;
    let member = |group: &&Group| group.gid == gid || group.members.iter().any(|member| member == name);
    // An empty shell means the standard one.
    let program = shell.rsplit('/').next().unwrap_or_default();
    let login = !["nologin", "false", "sync", "halt", "shutdown"].contains(&program);
    Some(User {
        name: name.to_owned(),
        uid: uid.parse().ok()?,
        gid,
        description: description.to_owned(),
        home: home.to_owned(),
        shell: shell.to_owned(),
        groups: groups.iter().filter(member).map(|group| group.name.clone()).collect(),
        login,
    })
}

fn group(line: &str) -> Option<Group> {
    let mut fields = line.splitn(4, ':');
    let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
    let members =
        fields.next().unwrap_or_default().split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect();
    Some(Group { name: name.to_owned(), gid: gid.parse().ok()?, members })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Module as _;
    use crate::modules::testing::context;
    use serde_json::{Value, json};

    fn run(parameters: &Value) -> ModuleResult {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "root:x:0:0:root:/r:/bin/bash\nkim:x:1000:1000:Kim,,:/k:/bin/zsh\nbin:x:2:2::/:/usr/sbin/nologin\nbad:x\n+::::::\n";
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(dir.path().join("etc/group"), "root:x:0:\nsudo:x:27:kim,other\nkim:x:1000:\n").unwrap();
        Users.run(parameters, &context(dir.path()))
    }

    fn names(parameters: &Value) -> Vec<String> {
        let elements: Elements = serde_json::from_value(run(parameters).elements).unwrap();
        elements.users.into_iter().map(|user| user.name).collect()
    }

    #[test]
    fn accounts_are_chosen_by_name_group_number_and_shell() {
        assert_eq!(names(&json!({})), ["root", "kim", "bin"]);
        assert_eq!(names(&json!({"names": ["!root"]})), ["kim", "bin"]);
        assert_eq!(names(&json!({"groups": ["^sudo$"]})), ["kim"]);
        assert_eq!(names(&json!({"uids": [0, 2]})), ["root", "bin"]);
        assert_eq!(names(&json!({"login": true})), ["root", "kim"]);
        assert!(!run(&json!({"names": ["nobody"]})).foundanything);
    }

    #[test]
    fn who_asks_for_a_group_that_nobody_can_look_at_is_not_answered() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "kim:x:1000:1000:::/opt/nofalse\n").unwrap();
        let run = |parameters: &Value| Users.run(parameters, &context(dir.path()));
        let result = run(&json!({"groups": ["^sudo$"]}));
        assert!(!result.success && result.errors()[0].contains("/etc/group: no such file"), "{result:?}");
        let result = run(&json!({"login": true}));
        assert!(result.success && result.foundanything && result.errors().len() == 1, "{result:?}");
    }

    #[test]
    fn an_account_tells_its_groups() {
        let result = run(&json!({"names": ["kim"]}));
        assert_eq!(result.elements["users"][0]["groups"], json!(["sudo", "kim"]));
        let error = &result.errors()[0];
        assert!(error.ends_with("/etc/passwd: 1 of 4 rows could not be read and was left out: line 4"), "{error}");
        let lines = <Users as Typed>::lines(&result, Lines::Found);
        assert_eq!(lines, ["kim [uid:1000, gid:1000, home:/k, shell:/bin/zsh] groups sudo,kim"]);
    }

    #[test]
    fn lines_are_read_as_glibc_reads_them_and_the_others_are_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "# a note\nroot:x:0:0:root:/r:/bin/bash\nshort:x:5:5\n  blank:x:6:6:::\neight:x:7:7:d:/h:/bin/sh:more\n\
                      bad:x\nlarge:x:4294967296:1:::\nname only\n:\n";
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(dir.path().join("etc/group"), "wheel:x:10\nbad\nmany:x:11:short,eight\n").unwrap();
        let result = Users.run(&json!({}), &context(dir.path()));
        let elements: Elements = serde_json::from_value(result.elements.clone()).unwrap();
        let shells: Vec<_> = elements.users.iter().map(|user| format!("{} {}", user.name, user.shell)).collect();
        assert_eq!(shells, ["root /bin/bash", "short ", "blank ", "eight /bin/sh:more"]);
        assert_eq!(elements.users[3].groups, ["many"]);
        let errors = result.errors();
        assert!(
            errors[0].ends_with("/etc/group: 1 of 3 rows could not be read and was left out: line 2"),
            "{errors:?}"
        );
        assert!(
            errors[1].ends_with("/etc/passwd: 4 of 8 rows could not be read and were left out: lines 6, 7, 8, 9"),
            "{errors:?}"
        );
    }
}
