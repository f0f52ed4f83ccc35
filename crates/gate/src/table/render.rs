//! The table for people and for other programs: words for classes and conditions, Markdown and serialisation.

use std::fmt;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::{Case, Class, Row, SYSCALLS, Test, Verdict};

impl Class {
    /// The class in one word, as documents name it: `native`, `native if`, `shim`, `shim-only`, `shim-only if`, `refused`
    /// or `by argument`.
    pub fn word(&self) -> &'static str {
        match self {
            Class::Native => "native",
            Class::NativeIf(_) => "native if",
            Class::Trap => "shim",
            Class::ShimOnly => "shim-only",
            Class::ShimOnlyIf(_) => "shim-only if",
            Class::Refused(_) => "refused",
            Class::Cases(_) => "by argument",
        }
    }
}

impl Row {
    /// The class as an ordered list of cases, of which the first that applies decides; when none does, the call is trapped.
    pub fn cases(&self) -> Vec<Case> {
        match self.class {
            Class::Native => vec![Case { when: &[], then: Verdict::Native }],
            Class::NativeIf(when) => vec![Case { when, then: Verdict::Native }],
            Class::Trap => Vec::new(),
            Class::ShimOnly => vec![Case { when: &[], then: Verdict::ShimOnly }],
            Class::ShimOnlyIf(when) => vec![Case { when, then: Verdict::ShimOnly }],
            Class::Refused(errno) => vec![Case { when: &[], then: Verdict::Refuse(errno) }],
            Class::Cases(cases) => cases.to_vec(),
        }
    }

    /// The conditions in words; empty when there are none.
    pub fn conditions(&self) -> String {
        match self.class {
            Class::Native | Class::Trap | Class::ShimOnly => String::new(),
            Class::NativeIf(when) | Class::ShimOnlyIf(when) => all_of(when),
            Class::Refused(errno) => format!("{errno:?}"),
            Class::Cases(cases) => cases.iter().map(Case::to_string).collect::<Vec<_>>().join("; "),
        }
    }
}

fn all_of(tests: &[Test]) -> String {
    tests.iter().map(Test::to_string).collect::<Vec<_>>().join(" and ")
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Native => f.write_str("native"),
            Verdict::ShimOnly => f.write_str("shim-only"),
            Verdict::Trap => f.write_str("shim"),
            Verdict::Refuse(errno) => write!(f, "{errno:?}"),
            Verdict::Notify => f.write_str("gate"),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.when {
            [] => write!(f, "otherwise {}", self.then),
            when => write!(f, "{} if {}", self.then, all_of(when)),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, names: &[super::Named]| match names {
            [(name, _)] => write!(f, " = {name}"),
            _ => write!(f, " in {{{}}}", names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")),
        };
        match *self {
            Test::In(arg, names) => write!(f, "arg{arg}").and_then(|()| list(f, names)),
            Test::Masked(arg, mask, names) => write!(f, "arg{arg} & {mask:#x}").and_then(|()| list(f, names)),
            Test::Null(arg) => write!(f, "arg{arg} = NULL"),
            Test::Whole(arg, value) => write!(f, "arg{arg} = {value:#x}"),
            Test::NotHidden(arg) => write!(f, "arg{arg} not hidden"),
            Test::BelowHidden(arg) => write!(f, "arg{arg} below the hidden"),
            Test::AboveHidden(arg) => write!(f, "arg{arg} above the hidden"),
        }
    }
}

/// Fields `number`, `name`, `class`, `conditions` and `reason`, all in the words of the documentation.
impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Row", 5)?;
        fields.serialize_field("number", &self.nr)?;
        fields.serialize_field("name", self.name)?;
        fields.serialize_field("class", self.class.word())?;
        fields.serialize_field("conditions", &self.conditions())?;
        fields.serialize_field("reason", self.reason)?;
        fields.end()
    }
}

/// The whole table as Markdown, with the columns number, name, class, conditions and reason.
pub fn markdown() -> String {
    let mut text = String::from("| nr | system call | class | conditions | why |\n|---:|---|---|---|---|\n");
    for row in SYSCALLS {
        let Row { nr, name, class, reason } = row;
        text += &format!("| {nr} | {name} | {} | {} | {reason} |\n", class.word(), row.conditions());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::row;

    fn by_name(name: &str) -> &'static Row {
        SYSCALLS.iter().find(|row| row.name == name).expect("a row of that name")
    }

    #[test]
    fn conditions_read_as_sentences() {
        assert_eq!(row(0).unwrap().conditions(), "");
        assert_eq!(by_name("perf_event_open").conditions(), "EPERM");
        assert_eq!(by_name("accept").conditions(), "arg1 = NULL");
        assert!(by_name("ioctl").conditions().contains("EPERM if arg1 in {TIOCSTI, TIOCLINUX}"));
        assert!(by_name("close").conditions().ends_with("otherwise shim-only"));
    }

    #[test]
    fn the_markdown_has_one_line_of_five_cells_for_each_row() {
        let text = markdown();
        assert_eq!(text.lines().count(), SYSCALLS.len() + 2);
        for line in text.lines() {
            assert_eq!(line.matches('|').count(), 6, "{line}");
        }
        assert!(text.contains("| 56 | clone | shim-only if | arg0 & 0x7e020000 = 0 |"));
    }
}
