use std::fmt;
use std::path::PathBuf;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Nothing else can be said about a file that has no structure.
    #[error("{} is not valid YAML: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("{}", lines(.0))]
    Mistakes(Vec<Mistake>),
}

impl Error {
    /// Every mistake; empty when the file could not be read at all.
    pub fn mistakes(&self) -> &[Mistake] {
        match self {
            Self::Mistakes(mistakes) => mistakes,
            Self::Unreadable { .. } | Self::Syntax { .. } => &[],
        }
    }
}

/// One thing to correct. Never holds the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where: `mappings[2].columns.amount.as`, or the environment variable.
    pub key: String,
    /// What must be the case.
    pub constraint: String,
    /// What stands there instead.
    pub given: Option<String>,
    pub hint: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.constraint)?;
        if let Some(given) = &self.given {
            write!(f, ", given {given}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

fn lines(mistakes: &[Mistake]) -> String {
    let lines: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
    lines.join("\n")
}
