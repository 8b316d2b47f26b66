//! Scripts by which shells complete `weft`, and what they offer as kinds of documents.

use std::ffi::OsStr;

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
};
use clap_complete::Shell;
use weft_policy::kinds::kinds;

/// Takes kinds and names alike. Shells complete kinds, and the words that stand beside them.
#[derive(Clone, Copy)]
pub(super) struct Words(pub(super) &'static [&'static str]);

impl TypedValueParser for Words {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let mut plurals: Vec<&'static str> = kinds().iter().map(|kind| kind.plural).collect();
        plurals.sort_unstable();
        // Gateways are of two groups; the word alone is the one that `find_kind` takes.
        plurals.dedup();
        Some(Box::new(self.0.iter().copied().chain(plurals).map(PossibleValue::new)))
    }
}

/// The script for a shell.
///
/// # Errors
/// It is not UTF-8.
pub(super) fn script(shell: Shell, mut weft: Command) -> anyhow::Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut weft, "weft", &mut script);
    let mut script = String::from_utf8(script)?;
    if shell == Shell::Fish {
        // clap_complete writes for fish what options take, not what arguments without a name do.
        for command in weft.get_subcommands() {
            let values = command.get_positionals().flat_map(Arg::get_possible_values);
            let values: Vec<_> = values.map(|value| value.get_name().to_owned()).collect();
            if !values.is_empty() {
                let (name, values) = (command.get_name(), values.join(" "));
                script += &format!("complete -c weft -n \"__fish_weft_using_subcommand {name}\" -f -a \"{values}\"\n");
            }
        }
    }
    Ok(script)
}
