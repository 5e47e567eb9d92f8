//! Writes a configuration as TOML, secrets hidden, with where each value came from.

use std::fmt::Write as _;

use super::Loaded;
use super::setting::Shown;

impl Loaded {
    /// The effective configuration, for people.
    #[must_use]
    pub fn into_toml(mut self) -> String {
        let mut text = String::new();
        let mut section = "";
        for (path, setting) in self.config.settings() {
            let name = match path.split_once('.') {
                Some((of, name)) if of == section => name,
                Some((of, name)) => {
                    section = of;
                    let _ = writeln!(text, "\n[{section}]"); // a String takes everything
                    name
                }
                None => path,
            };
            let origin = self.origins.get(path).map_or("default".to_owned(), ToString::to_string);
            let _ = match setting.shown() {
                Shown::Value(value) => writeln!(text, "{name} = {value} # {origin}"),
                Shown::Hidden => writeln!(text, "{name} = \"[hidden]\" # {origin}"),
                Shown::Absent => writeln!(text, "# {name} is not set"),
            };
        }
        text
    }
}
