//! A rowstream of one's own, with a transformer for what no rule can say.
//!
//! Here: places that an old application wrote as text, `52.52N 13.40E`, become two numbers. The mapping:
//!
//! ```yaml
//! mappings:
//!   - source: stations
//!     collection: weather.stations
//!     table: stations
//!     transform: place                  # the name it is registered by
//!     columns:
//!       name: name                      # everything else as always
//!       latitude: $transform            # what it gives as `latitude`
//!       longitude: { from: $transform, required: true }
//! ```
//!
//! `cargo run --example transformer -- check --config stations.yaml`; all commands are there.

use std::process::ExitCode;

use bson::{Document, RawDocument, doc};
use rowstream::{Refusal, Transformer, Transformers};

fn main() -> ExitCode {
    let transformers = Transformers::new()
        .with("place", Place { field: "place" })
        // A function will do, where there is nothing to set.
        .with("initials", initials);
    rowstream::cli::main_with(std::env::args_os(), std::env::vars().collect(), transformers)
}

struct Place {
    field: &'static str,
}

impl Transformer for Place {
    fn transform(&self, document: &RawDocument) -> Result<Document, Refusal> {
        let Some(value) = document.get(self.field)? else { return Ok(Document::new()) };
        let text = value.as_str().ok_or_else(|| Refusal::new("the place is no text"))?;
        let (latitude, longitude) =
            text.split_once(' ').ok_or_else(|| Refusal::new("the place has no two parts"))?;
        let latitude = degrees(latitude, 'N', 'S').ok_or_else(|| no_degrees("latitude"))?;
        let longitude = degrees(longitude, 'E', 'W').ok_or_else(|| no_degrees("longitude"))?;
        Ok(doc! { "latitude": latitude, "longitude": longitude })
    }
}

/// Says which part is wrong, and not what it says.
fn no_degrees(column: &str) -> Refusal {
    Refusal::of_column(column, "is not written as degrees and a direction")
}

fn degrees(text: &str, plus: char, minus: char) -> Option<f64> {
    let number = text.strip_suffix([plus, minus])?.parse::<f64>().ok()?;
    Some(if text.ends_with(minus) { -number } else { number })
}

fn initials(document: &RawDocument) -> Result<Document, Refusal> {
    let name = document.get_str("name").map_err(|_| Refusal::new("there is no name"))?;
    let initials: String = name.split_whitespace().filter_map(|word| word.chars().next()).collect();
    Ok(doc! { "initials": initials })
}
